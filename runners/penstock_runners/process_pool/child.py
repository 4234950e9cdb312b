"""What runs in a worker process: the main thread works, and another one listens meanwhile.

The main thread reads its orders itself, since to be handed them by a thread would take longer than
a short task. The listening thread has a pipe of its own, for what cannot wait for the end of a
task, and is the lifeline: when the driver is gone, the process ends at once, in the middle of a
task if need be. On Linux the kernel sees to that where a task holds the GIL.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import marshal
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from penstock.worker import devices, errors, packing, running
from penstock.worker.here import RESOURCES, Here, HereInSeries
from penstock.worker.output import forwarding
from penstock_runners.process_pool import frames, segments
from penstock_runners.process_pool.slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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

    def note(self, answer: tuple[Any, ...], buffers: list[Any]) -> None:
        """Put an answer where it will not be lost, on the pipe or in the journal."""
        if buffers:
            self.send((frames.DONE, answer), buffers)
            return
        part = frames.answer_part(answer)
        with self._lock:
            if not self._slot.note(part):
                self._slot.write_journal(self._descriptor)
                if not self._slot.note(part):
                    frames.write_all(self._descriptor, (frames.answers_start(1, len(part)), part))

    def flush(self) -> None:
        """Write what is noted."""
        with self._lock:
            self._slot.write_journal(self._descriptor)

    def send(self, head: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
        """Write what is noted, then this."""
        with self._lock:
            self._slot.write_journal(self._descriptor)
            frames.write_all(self._descriptor, frames.frame(head, buffers))


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
                    self._give_back(asked, asked)
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
        slot, owners = self._slot, self._owners
        batch_began = flushed = now = time.monotonic()
        begun: list[int] = []
        left = unfolded(calls)
        for call in left:
            number, count = call[0], call[3]
            own = [buffers.pop() for _ in range(count)] if count else []
            begun.append(number)
            if owners.setdefault(number, _WORKER) is not _WORKER:
                continue
            slot.begin(number, now)
            while slot.is_held:  # after saying `begin`, so that the driver knows who waits
                time.sleep(HOLD_POLL_SECONDS)
                now = time.monotonic()
                slot.begin(number, now)
            now = self._run_call(call, own, now)
            if now - flushed > FLUSH_SECONDS:
                self._outbox.flush()
                flushed = now
            if now - batch_began > GIVE_BACK_SECONDS:
                rest = [each[0] for each in left]
                if rest:
                    self._give_back((), rest)
                begun += rest
        self._slot.end()
        self._outbox.flush()
        for number in begun:
            self._owners.pop(number, None)

    def _give_back(self, asked: tuple[int, ...], numbers: Iterable[int]) -> None:
        """Say which calls will not begin: those of these that are not begun, or given back.

        What has ended is told with it; the driver may have asked for no more than that.
        """
        own = [number for number in numbers if self._claim(number, _DRIVER)]
        self._outbox.send((frames.GIVEN_BACK, asked, own))

    def _run_call(self, call: tuple[Any, ...], buffers: list[bytearray], began: float) -> float:
        """Run a call and note its answer; return when it ended."""
        number, function, payload, _, constants, surroundings = call
        here, variables, writer, resources = self._here(number, surroundings)

        def load() -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
            if type(payload) is tuple:
                args, kwargs = payload, {}
            else:
                args, kwargs = running.loading("arguments", packing.load_call, payload, buffers)
            if constants:
                args = self._put_constants(constants, list(args), kwargs)
            fn = self._parcels[function]
            if type(fn) is bytearray:
                fn = self._parcels[function] = running.loading("function", pickle.loads, fn)
            self._slot.call(time.monotonic())  # what was imported for it does not count
            return fn, args, kwargs

        if resources:
            with devices.showing(resources):
                ending = running.run(here, load, variables, writer)
        else:
            ending = running.run(here, load, variables, writer)
        if os.getpid() != self._process_id:
            leave_fork(ending.error)
        packed, parts = ending.payload, ending.buffers
        if ending.how == running.RAISED and _size(packed) > packing.LARGE_BYTES:
            packed, parts = None, [marshal.dumps(packed)]
        now, called = time.monotonic(), self._slot.called or began
        self._outbox.note(
            (
                number,
                ending.how,
                packed,
                called,
                now - called,
                ending.children,
                ending.stored_bytes,
            ),
            parts,
        )
        return now

    def _here(
        self, number: int, surroundings: tuple[Any, ...] | None
    ) -> tuple[Here, bytes | None, bytes | None, tuple[Any, ...]]:
        """Return where a call stands, its context variables, what stores its result, its devices.

        Args:
            number: of the call.
            surroundings: None: it is part of no run. Two items: of a series. Else as in `batches`.
        """
        emit = functools.partial(self._emit, number)
        if surroundings is None:
            return Here({}, (), emit), None, None, ()
        shared = self._loaded(surroundings[0], marshal.loads)
        forwarding.install(shared["levels"], is_own_process=True)
        if len(surroundings) == 2:
            return HereInSeries(shared, surroundings[1], emit), None, None, ()
        _, own, variables, writer = surroundings
        return Here(shared, own, emit), variables, writer, own[RESOURCES] if own else ()

    def _emit(self, number: int, record: tuple[Any, ...]) -> None:
        self._outbox.send((frames.OUTPUT, number, record))

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


def leave_fork(error: BaseException | None) -> NoReturn:
    """End a child that a task forked, and that came back here: it is not the worker."""
    if isinstance(error, SystemExit):
        os._exit(error.code if isinstance(error.code, int) else error.code is not None)
    if error is not None:
        sys.stderr.write(errors.format_error(error) + "\n")
        sys.stderr.flush()
    os._exit(error is not None)


def unfolded(calls: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield calls, and those of rows, one by one; see `frames`."""
    for call in calls:
        if type(call) is tuple:
            yield call
            continue
        first, function, payloads, counts, constants, shared, origin, offset = call
        for place, payload in enumerate(payloads):
            surroundings = None if shared is None else (shared, (origin, offset + place))
            count = counts[place] if counts else 0
            yield first + place, function, payload, count, constants, surroundings


def _size(packed: tuple[Any, ...]) -> int:
    return sum(len(one or "") for one in packed)
