"""The engine of task runs outside of any flow: one a process, made when first needed."""

from __future__ import annotations

import atexit
import os
import sys
import threading

from penstock import settings
from penstock.engine.driver import Engine
from penstock.engine.loop import Waiter
from penstock.logging import configure

__all__ = ["ambient_engine", "close_ambient_engine"]

_lock = threading.Lock()
_engine: Engine | None = None
_pid = 0


def ambient_engine() -> Engine:
    """Return the engine for runs that no flow is around, with the settings of this moment."""
    global _engine, _pid
    now = settings.current()
    engine = _engine
    if engine is None or _pid != os.getpid():
        with _lock:
            engine = _engine
            if engine is None or _pid != os.getpid():
                engine = _engine = Engine(now)
                engine.loop.owner = threading.main_thread().ident or 0
                engine.loop.owner_is_main = True
                _pid = os.getpid()
                configure(now)
    if engine.settings is not now:
        engine.settings = now
        engine.plans = {}
        configure(now)
    return engine


@atexit.register
def close_ambient_engine() -> None:
    """Wait for what was submitted, and close. At exit; tests call it, too."""
    global _engine
    engine, _engine = _engine, None
    if engine is None or _pid != os.getpid():
        return
    try:
        if getattr(sys, "last_type", None) is KeyboardInterrupt:  # the program ends by Ctrl-C
            engine.cancel(list(engine.active), "interrupted by Ctrl-C", kill=True)
        while engine.active:
            for run in list(engine.active):
                waiter = Waiter()
                engine.watch([run], waiter)
                engine.loop.wait(waiter)
    finally:
        engine.close()
