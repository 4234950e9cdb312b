"""What runs in a worker process: the main thread works, and another one listens meanwhile.

The main thread reads its orders itself, since to be handed them by a thread would take longer than
a short task. The listening thread has a pipe of its own, for what cannot wait for the end of a
task, and is the lifeline: when the driver is gone, the process ends at once, in the middle of a
task if need be. On Linux the kernel sees to that where a task holds the GIL.
"""

from __future__ import annotations

import ctypes
import faulthandler
import marshal
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from penstock.worker import devices, errors, packing, running
from penstock.worker.here import RESOURCES, Here
from penstock.worker.output import forwarding
from penstock_runners.process_pool import frames, segments
from penstock_runners.process_pool.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["STACK_SIGNAL", "run"]

STACK_SIGNAL: Final[int] = signal.SIGRTMAX - 3 if sys.platform == "linux" else signal.SIGUSR2
"""Makes a worker write the stack of its main thread, also where a C call holds the GIL."""

FLUSH_SECONDS: Final = 0.005
"""No result waits longer than this for the next ones of its batch to end."""
GIVE_BACK_SECONDS: Final = 0.02
"""After so long in a batch, the rest of it goes back: it was taken for shorter."""
HOLD_POLL_SECONDS: Final = 0.0005
_PR_SET_PDEATHSIG: Final = 1
_WORKER: Final = "worker"
_DRIVER: Final = "driver"


def run(
    orders: int,
    control: int,
    answers: int,
    stacks: int,
    table: int,
    index: int,
    driver_process_id: int,
) -> None:
    """Work until the driver says stop, or is gone. The first five are file descriptors."""
    _die_with_driver(driver_process_id)
    for descriptor in (orders, control, answers, stacks):  # not for the programs that tasks start
        os.set_inheritable(descriptor, False)
    # Ctrl-C at a terminal reaches all its processes; only the driver decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    # The driver does not wait for workers when it exits, but tasks may have children.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    faulthandler.enable(stacks, all_threads=False)
    faulthandler.register(STACK_SIGNAL, stacks, all_threads=False)
    slot = Slot(table, index)
    os.close(table)
    _Worker(orders, control, _Outbox(answers, slot), slot).run()


def _die_with_driver(driver_process_id: int) -> None:
    if sys.platform == "linux":
        # The signal comes when the *thread* ends that started this process: the pool's own.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver_process_id:  # it was gone before that
        os._exit(1)


class _Outbox:
    """What goes to the driver, from both threads."""

    def __init__(self, descriptor: int, slot: Slot) -> None:
        self._descriptor = descriptor
        self._slot = slot
        self._lock = threading.Lock()

    def note(self, head: tuple[Any, ...], buffers: list[Any]) -> None:
        """Put an outcome where it will not be lost, on the pipe or in the journal."""
        parts = frames.frame(head, buffers)
        with self._lock:
            if buffers or not self._slot.note(parts[0]):
                self._slot.write_journal(self._descriptor)
                if buffers or not self._slot.note(parts[0]):
                    frames.write_all(self._descriptor, parts)

    def flush(self) -> None:
        """Write what is noted."""
        with self._lock:
            self._slot.write_journal(self._descriptor)

    def send(self, head: tuple[Any, ...]) -> None:
        """Write what is noted, then this."""
        with self._lock:
            self._slot.write_journal(self._descriptor)
            frames.write_all(self._descriptor, frames.frame(head))


class _Worker:
    def __init__(self, orders: int, control: int, outbox: _Outbox, slot: Slot) -> None:
        self._orders = orders
        self._control = control
        self._outbox = outbox
        self._slot = slot
        self._process_id = os.getpid()
        self._owners: dict[int, str] = {}
        """By number of the call, who was first to claim it: to begin it, or to give it back.

        `dict.setdefault` is atomic, and numbers are never used again: a call that was given back
        and comes again has another.
        """
        self._parcels: dict[int, Any] = {}
        """By number: as bytes until first needed, since loading one is a call's own risk."""

    def run(self) -> None:
        threading.Thread(target=self._listen, name="penstock-lifeline", daemon=True).start()
        reader = frames.FrameReader(self._orders)
        try:
            while True:
                for head, buffers in reader.read():
                    if head[0] == frames.CALLS:
                        self._run_batch(head, buffers)
                    elif head[0] == frames.STOP or not self._initialize(head[1]):
                        return
        except (EOFError, BrokenPipeError):  # the driver is gone
            os._exit(1)

    def _listen(self) -> None:
        reader = frames.FrameReader(self._control)
        try:
            while True:
                for (_, asked), _ in reader.read():
                    own = [number for number in asked if self._claim(number, _DRIVER)]
                    self._outbox.send((frames.GIVEN_BACK, asked, own))
        finally:  # the driver is gone, or this thread is of no use any more
            os._exit(1)

    def _claim(self, number: int, who: str) -> bool:
        return self._owners.setdefault(number, who) is who

    def _initialize(self, packed: bytes | None) -> bool:
        try:
            if packed is not None:
                initializer, arguments = pickle.loads(packed)
                initializer(*arguments)
        except BaseException as error:  # noqa: BLE001  (SystemExit is a failure, too)
            self._outbox.send((frames.INITIALIZER_FAILED, errors.format_error(error)))
            return False
        self._outbox.send((frames.READY,))
        return True

    def _run_batch(self, head: tuple[Any, ...], buffers: list[bytearray]) -> None:
        _, forgotten, new, calls = head
        for number in forgotten:
            self._parcels.pop(number, None)
        buffers.reverse()  # to pop them in order, so that each call's are freed after it
        for number in new:
            self._parcels[number] = buffers.pop()
        batch_began = flushed = time.monotonic()
        for position, (number, *call) in enumerate(calls, 1):
            own = [buffers.pop() for _ in range(call[2])]
            if not self._claim(number, _WORKER):
                continue
            self._slot.begin(number, time.monotonic())
            while self._slot.is_held:  # after saying `begin`, so that the driver knows who waits
                time.sleep(HOLD_POLL_SECONDS)
                self._slot.begin(number, time.monotonic())
            self._run_call(number, call, own)
            now = time.monotonic()
            if now - flushed > FLUSH_SECONDS:
                self._outbox.flush()
                flushed = now
            if now - batch_began > GIVE_BACK_SECONDS and position < len(calls):
                rest = [call[0] for call in calls[position:] if self._claim(call[0], _DRIVER)]
                self._outbox.send((frames.GIVEN_BACK, (), rest))
                break
        self._slot.end()
        self._outbox.flush()
        for call in calls:
            self._owners.pop(call[0], None)

    def _run_call(self, number: int, call: list[Any], buffers: list[bytearray]) -> None:
        function, payload, _, constants, surroundings = call
        began = time.monotonic()
        shared, own, variables, writer = _NOWHERE if surroundings is None else surroundings
        if surroundings is not None:
            shared = self._loaded(shared, marshal.loads)
            forwarding.install(shared["levels"], is_own_process=True)
        here = Here(shared, own, lambda record: self._outbox.send((frames.OUTPUT, number, record)))

        def load() -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
            args, kwargs = running.loading("arguments", packing.load_call, payload, buffers)
            if constants:
                args = self._put_constants(constants, list(args), kwargs)
            fn = self._parcels[function]
            if type(fn) is bytearray:
                fn = self._parcels[function] = running.loading("function", pickle.loads, fn)
            self._slot.call(time.monotonic())  # what was imported for it does not count
            return fn, args, kwargs

        resources = own[RESOURCES] if own else ()
        if resources:
            with devices.showing(resources):
                ending = running.run(here, load, variables, writer)
        else:
            ending = running.run(here, load, variables, writer)
        self._leave_if_forked(ending.error)
        packed, parts = ending.payload, ending.buffers
        if ending.how == running.RAISED and _size(packed) > packing.LARGE_BYTES:
            packed, parts = None, [marshal.dumps(packed)]
        now, called = time.monotonic(), self._slot.called or began
        head = (
            frames.DONE,
            number,
            ending.how,
            packed,
            called,
            now - called,
            ending.children,
            ending.stored_bytes,
        )
        self._outbox.note(head, parts)

    def _loaded(self, number: int, load: Callable[[Any], Any]) -> Any:
        found = self._parcels[number]
        if type(found) is bytearray:
            found = self._parcels[number] = load(found)
        return found

    def _put_constants(
        self, constants: Any, args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        for place, number in constants:
            value = running.loading("constants", self._loaded(number, segments.opened))
            if isinstance(place, int):
                args[place] = value
            else:
                kwargs[place] = value
        return tuple(args)

    def _leave_if_forked(self, error: BaseException | None) -> None:
        """End a child that a task forked, and that came back here: it is not the worker."""
        if os.getpid() == self._process_id:
            return
        if isinstance(error, SystemExit):
            os._exit(error.code if isinstance(error.code, int) else error.code is not None)
        if error is not None:
            sys.stderr.write(errors.format_error(error) + "\n")
            sys.stderr.flush()
        os._exit(error is not None)


def _size(packed: tuple[Any, ...]) -> int:
    return sum(len(one or "") for one in packed)


_NOWHERE: Final[tuple[Any, ...]] = ({}, (), None, None)
"""The surroundings of a call that is part of no run."""
