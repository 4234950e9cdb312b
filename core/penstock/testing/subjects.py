"""The functions that the conformance kit sends to workers, and how they are told to go on.

A worker may be another process, so everything here can be imported there, and a function is told
things by files: `Gate` is a file whose existence means "go on".
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
import os
import pathlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from penstock.worker.here import ATTEMPT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

POLL_SECONDS = 0.002
STATE: contextvars.ContextVar[str] = contextvars.ContextVar("STATE", default="unset")
LOGGER = "penstock_conformance"


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    """Somewhere to wait, across processes. It is shut until somebody opens it."""

    path: str
    patience_seconds: float

    def open(self) -> None:
        """Let everybody through, now and later."""
        pathlib.Path(self.path).touch()

    def is_open(self) -> bool:
        """Whether somebody has opened it."""
        return os.path.exists(self.path)

    def wait(self, what: str) -> None:
        """Wait until it is open, or raise `TimeoutError` that says what did not happen."""
        deadline = time.monotonic() + self.patience_seconds
        while not self.is_open():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {self.patience_seconds} s still not: {what}")
            time.sleep(POLL_SECONDS)


def store(path: str, value: bytes, packing: object) -> int:  # noqa: ARG001  (see `Environment`)
    """Store a result in a file, and return its size."""
    return pathlib.Path(path).write_bytes(value)


class NeedsTwoArgumentsError(Exception):
    """Cannot be made from its `args`: pickling works, unpickling does not."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"{first} {second}")


class ExplodesWhenLoaded:
    """Pickles well and cannot be unpickled."""

    def __reduce__(self) -> tuple[Callable[[], NoReturn], tuple[()]]:
        return explode, ()


def explode() -> NoReturn:
    """Raise."""
    raise RuntimeError("exploded while unpickling")


def add(x: int, y: int = 1) -> int:
    """Return the sum."""
    return x + y


def apply(fn: Callable[..., Any], *args: Any) -> Any:
    """Do what the argument says: for calls that differ in more than a number."""
    return fn(*args)


def identity(value: Any) -> Any:
    """Return the argument itself."""
    return value


def pick(numbers: list[int], index: int) -> int:
    """Return an item."""
    return numbers[index]


def append_and_count(numbers: list[int]) -> int:
    """Change the argument, and return its length."""
    numbers.append(0)
    return len(numbers)


def tell_surroundings() -> tuple[str | None, tuple[Any, ...]]:
    """Return what this worker knows of the attempt at hand."""
    here = ATTEMPT.get()
    return (None, ()) if here is None else (here.shared.get("name"), here.own)


def log_lines(label: int, count: int) -> None:
    """Log lines, and others of a level that is too low."""
    logger = logging.getLogger(LOGGER)
    for number in range(count):
        logger.info("%d.%d", label, number)
        logger.debug("too low")
        logging.getLogger(f"{LOGGER}_other").info("too low for the root logger")


def say(text: str) -> None:
    """Print a text."""
    print(text)  # noqa: T201  (the point of this one)


def log_and_raise() -> NoReturn:
    """Log a line and raise."""
    logging.getLogger(LOGGER).info("the last line")
    raise ValueError("after the last line")


def log_and_die() -> NoReturn:
    """Log a line and take the worker process down."""
    logging.getLogger(LOGGER).info("the last line")
    die()


def count_up(stop: int) -> Iterator[int]:
    """Yield numbers."""
    yield from range(stop)


def read_state() -> str:
    """Return the context variable, and set it for whoever uses this context next."""
    value = STATE.get()
    STATE.set("seen")
    return value


def pass_gate(begun: Gate, gate: Gate) -> str:
    """Say that it began, wait, return."""
    begun.open()
    gate.wait("the kit opens the gate")
    return "passed"


def spin(begun: Gate, gate: Gate) -> None:
    """Loop in Python code, ready to be interrupted anywhere."""
    pass_gate(begun, gate)


def sleep_in_one_piece(begun: Gate, gate: Gate) -> None:
    """Sleep in one call, in which no exception can reach the thread."""
    begun.open()
    time.sleep(gate.patience_seconds)


def ignore_everything(begun: Gate, gate: Gate) -> None:
    """Go on whatever is raised in here, until the gate is open."""
    begun.open()
    while not gate.is_open():
        try:
            gate.wait("the kit opens the gate")
        except BaseException:  # noqa: BLE001, S112  (the point of this one)
            continue


def note_start(log: str, label: str) -> None:
    """Append a label to a file; short appends are atomic."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(label + "\n")


def open_gate(gate: Gate) -> None:
    """Leave a trace."""
    gate.open()


def raise_needing_arguments() -> NoReturn:
    """Raise what cannot be unpickled."""
    raise NeedsTwoArgumentsError(1, 2)


def raise_holding_lock() -> NoReturn:
    """Raise what cannot be pickled."""
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]  # the point of this one
    raise error


def raise_with_cause() -> NoReturn:
    """Raise a chain of two."""
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise ValueError("outer") from error


def raise_system_exit() -> NoReturn:
    """Raise what ends a thread or a process."""
    sys.exit(3)


def raise_keyboard_interrupt() -> NoReturn:
    """Raise what a worker could take for Ctrl-C."""
    raise KeyboardInterrupt


def return_lock() -> object:
    """Return what cannot be pickled."""
    return threading.Lock()


def return_exploding() -> object:
    """Return what cannot be unpickled."""
    return ExplodesWhenLoaded()


def die() -> NoReturn:
    """Take the worker process down."""
    os._exit(3)


def tell_process_id(begun: Gate, directory: str, gate: Gate) -> None:
    """Leave the worker's process id in a directory, then wait."""
    (pathlib.Path(directory) / str(os.getpid())).touch()
    pass_gate(begun, gate)


async def add_async(x: int, y: int = 1) -> int:
    """Return the sum, a turn of the loop later."""
    await asyncio.sleep(0)
    return x + y


async def count_up_async(stop: int) -> AsyncIterator[int]:
    """Yield numbers."""
    for number in range(stop):
        yield number


async def read_state_async() -> str:
    """As `read_state`."""
    return read_state()


async def raise_system_exit_async() -> NoReturn:
    """As `raise_system_exit`."""
    raise_system_exit()


async def wait_async(begun: Gate, gate: Gate) -> str:
    """As `pass_gate`, without blocking the loop."""
    begun.open()
    while not gate.is_open():  # noqa: ASYNC110  (a file tells no event)
        await asyncio.sleep(POLL_SECONDS)
    return "passed"
