"""One worker process as the driver sees it: its pipes, its slot, what it was sent, its end."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import signal
import sys
from collections import OrderedDict
from multiprocessing import resource_tracker
from multiprocessing.context import get_spawning_popen
from multiprocessing.process import _children  # type: ignore[attr-defined]  # see close_in_child
from typing import TYPE_CHECKING, Any, Final

from loky.backend import get_context
from loky.backend import resource_tracker as loky_resource_tracker

from penstock.worker import errors
from penstock_runners.process_pool import child, frames
from penstock_runners.process_pool.frames import Frame, FrameReader
from penstock_runners.process_pool.jobs import Job, Stretch, unfolded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from penstock_runners.process_pool.jobs import Client
    from penstock_runners.process_pool.slots import Slot, SlotTable

__all__ = ["Killing", "Phase", "Worker"]

_PIPE_BYTES: Final = 1 << 20
_F_SETPIPE_SZ: Final = 1031
_KNOWN_PARCELS: Final = 2048
"""More than a batch can hold, so that none is forgotten that the same batch needs."""


class Phase(enum.Enum):
    """What can be expected of a worker."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    """Told to stop, or killed: it gets nothing more."""


class Killing:
    """The moment between the decision to kill a worker and the kill: it may show its stack."""

    __slots__ = ("asked_at", "deadline", "fault", "job")

    def __init__(self, job: Job, now: float, seconds: float, fault: str) -> None:
        self.job = job
        self.fault = fault
        """What the worker did, if nobody asked for the end of the attempt."""
        self.asked_at = now
        self.deadline: float | None = now + seconds
        """When the kill comes; None: it has been decided."""

    @property
    def is_wanted(self) -> bool:
        """Whether somebody asked for the end of the attempt."""
        return self.job.must_die or not self.fault


class Outlet:
    """The writing end of a pipe to a worker; keeps what there is no room for."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.is_watched = False
        """Whether somebody waits for room in it."""
        self._left: list[memoryview] = []

    @property
    def wants_room(self) -> bool:
        """Whether something is left to write."""
        return bool(self._left)

    def send(self, head: tuple[Any, ...], buffers: Sequence[Any] = ()) -> None:
        """Write a frame, or as much of it as there is room for; the rest goes by `write`."""
        parts = frames.frame(head, buffers)
        if buffers or self._left:
            self._left += frames.as_views(parts)
            self.write()
            return
        (part,) = parts
        try:
            written = os.write(self.descriptor, part)
        except BlockingIOError:
            written = 0
        except OSError:  # it is gone, as its death will tell
            return
        if written < len(part):
            self._left.append(memoryview(part)[written:])

    def write(self) -> None:
        """Write as much as there is room for."""
        try:
            while self._left:
                frames.advance(self._left, os.writev(self.descriptor, self._left[:64]))
        except BlockingIOError:
            return
        except OSError:  # it is gone, as its death will tell
            self._left.clear()


class Worker:
    """A process, from spawn to burial. Used by who has the pool's lock.

    That thread must be the one that spawns: the kernel kills the worker when it ends.
    """

    def __init__(self, table: SlotTable, index: int, env: Mapping[str, str]) -> None:
        self.index = index
        self.slot: Slot = table.slot(index)
        self.slot.clear()
        self.phase = Phase.STARTING
        self.sent: dict[int, Job | Stretch] = {}
        """Without an outcome, by number, in the order in which they run."""
        self.calls = 0
        """How many these are."""
        self.has_stretches = False
        self.seconds_ahead = 0.0
        self.has_slow = False
        """What it was sent last is slow, or unknown."""
        self.calls_left: int | None = None
        """How many it may still be sent, if it is to be replaced after so many."""
        self.killing: Killing | None = None
        self.flushed_for = self.recalled_for = 0
        """The running call for which it was asked to flush, to give back."""
        self.leave_by: float | None = None
        """When it is killed if it has not left."""
        self.failure = ""
        """The traceback of its initializer."""
        self.stack = ""
        """What its fault handler wrote."""
        self._parcels: OrderedDict[int, None] = OrderedDict()
        self.memory_bytes: int | None = None
        """What it was last seen to use; None if it ended, or worked too briefly, before a look."""
        self.has_worked = False
        """Since its memory was looked at."""
        self.is_too_large = False
        """It is to be replaced when what it was sent has ended."""
        self._spawn(table, env)

    def _spawn(self, table: SlotTable, env: Mapping[str, str]) -> None:
        theirs: list[int] = []
        ours: list[int] = []
        try:
            for their_end in (0, 0, 1, 1):  # orders, control, answers, stacks
                ends = os.pipe()
                theirs.append(ends[their_end])
                ours.append(ends[1 - their_end])
            theirs.append(os.dup(table.descriptor))
            for descriptor in ours:
                os.set_blocking(descriptor, False)
            _widen(ours[0])
            _widen(ours[2])
            context: Any = get_context("loky")  # multiprocessing's types know no such context
            self._process = context.Process(
                target=child.run,
                args=(*map(_Inherited, theirs), self.index, os.getpid()),
                name=f"penstock-worker-{self.index}",
                daemon=True,
                env=dict(env),
            )
            # The two helpers of the process unblock SIGINT when they start. It must be blocked,
            # as the worker inherits that: Ctrl-C would show in a traceback while it starts.
            resource_tracker.ensure_running()
            loky_resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            self._process.start()
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.process_id: int = self._process.pid
        self.name = f"process {self.process_id}"
        orders, control, self.answers, self.stacks = ours
        self.orders = Outlet(orders)
        self.control = Outlet(control)
        """For what it must hear while it works."""
        self._reader = FrameReader(self.answers)
        self._pidfd = _open_pidfd(self.process_id)
        self.death: int = self._process.sentinel if self._pidfd is None else self._pidfd
        """A descriptor that becomes readable when the process has ended."""

    @property
    def client(self) -> Client | None:
        """Whose calls it has; it never has those of two, so that one cannot hold up the other."""
        for one in self.sent.values():
            return one.client
        return None

    @property
    def is_spent(self) -> bool:
        """Whether it gets nothing more, and leaves when what it was sent has ended."""
        return self.is_too_large or self.calls_left == 0

    # --- sending ------------------------------------------------------------------------

    def learn(self, parcel: int) -> bool:
        """Note that a parcel goes to the worker; False if it has it."""
        is_new = parcel not in self._parcels
        self._parcels[parcel] = None
        self._parcels.move_to_end(parcel)
        return is_new

    def unlearn(self, parcel: int) -> bool:
        """Note that the worker is told to let go of a parcel; False if it does not have it."""
        return self._parcels.pop(parcel, self) is not self

    def forget(self) -> list[int]:
        """Return the parcels that the worker need not keep."""
        forgotten: list[int] = []
        while len(self._parcels) > _KNOWN_PARCELS:
            forgotten.append(self._parcels.popitem(last=False)[0])
        return forgotten

    # --- what it was sent ---------------------------------------------------------------

    def put_on(self, one: Job | Stretch) -> None:
        """Note what it is sent."""
        one.worker = self
        self.sent[one.key] = one
        self.calls += len(one)
        self.seconds_ahead += one.estimate_seconds * len(one)
        self.has_stretches = self.has_stretches or isinstance(one, Stretch)

    def job(self, number: int) -> Job | None:
        """Return what it was sent under a number, set apart from others if need be."""
        found = self.sent.get(number)
        if isinstance(found, Job):
            return found
        if not self.has_stretches or not any(
            one.number <= number < one.number + len(one) for one in self.sent.values()
        ):
            return None
        self.unfold()
        return self.job(number)

    def jobs(self) -> list[Job]:
        """Return all that it was sent, set apart."""
        self.unfold()
        return [one for one in self.sent.values() if isinstance(one, Job)]

    def take_off(self, number: int) -> Job | None:
        """Take a job from those that have no outcome; None if it is none of them."""
        job = self.job(number)
        if job is not None:
            del self.sent[number]
            self._count_off(1, job.estimate_seconds)
        return job

    def advance(self, stretch: Stretch, count: int) -> None:
        """Take the first of a stretch from those that have no outcome."""
        stretch.forget(count)
        stretch.advance(count)
        if not len(stretch):
            del self.sent[stretch.key]
        self._count_off(count, stretch.estimate_seconds)

    def _count_off(self, count: int, seconds: float) -> None:
        self.calls -= count
        if self.calls:
            self.seconds_ahead -= seconds * count
        else:
            self.seconds_ahead, self.has_slow, self.has_stretches = 0.0, False, False

    def unfold(self) -> None:
        """Have a job for each of what it was sent."""
        if self.has_stretches:
            self.has_stretches = False
            self.sent.update((one.number, one) for one in unfolded(self.sent, None))

    # --- reading ------------------------------------------------------------------------

    def read(self) -> Iterable[Frame] | None:
        """Return the frames that have come; None at the end of the pipe."""
        try:
            return self._reader.read()
        except BlockingIOError:
            return ()
        except (EOFError, OSError):
            return None

    def read_all(self) -> Iterable[Frame]:
        """Yield what a dead worker wrote and has not been read, and what it could not write."""
        try:
            while True:
                yield from self._reader.read()
        except (BlockingIOError, EOFError, OSError):
            # Blocking: a process that a task forked still has the pipe open.
            yield self.slot.journal(), []

    def read_stack(self) -> bool:
        """Take what the fault handler wrote; False at the end of the pipe."""
        try:
            piece = os.read(self.stacks, 1 << 16)
        except OSError:  # nothing there
            return True
        self.stack += piece.decode(errors="replace")
        return bool(piece)

    @property
    def has_whole_stack(self) -> bool:
        """Whether the fault handler has come down to our own frames."""
        return child.__file__ in self.stack

    def user_stack(self) -> str:
        """Return what the fault handler wrote, on lines of its own, without our own frames."""
        lines: list[str] = []
        own = tuple(f'  File "{directory}' for directory in errors.own_directories())
        for line in self.stack.strip().splitlines():
            if child.__file__ in line:
                break
            if not line.startswith(own):  # those around a run inside of another one, say
                lines += ("\n", line)
        return "".join(lines) if any("  File " in line for line in lines) else ""

    # --- ending -------------------------------------------------------------------------

    def ask_for_stack(self) -> None:
        """Make it write its stack."""
        self.stack = ""
        self._signal(child.STACK_SIGNAL)

    def stop(self, leave_by: float) -> None:
        """Tell it to leave when what it was sent is done."""
        self.phase = Phase.LEAVING
        self.leave_by = leave_by
        self.orders.send((frames.STOP,))

    def kill(self) -> None:
        """End it at once."""
        self.phase = Phase.LEAVING
        self._signal(signal.SIGKILL)

    def hasten_end(self) -> None:
        """Make sure that a process ends which has closed its pipe, most likely by ending."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._process._popen.poll() is None:  # or the id may be somebody else's
                os.kill(self.process_id, number)

    def bury(self) -> int | None:
        """Wait for the process, which has ended, close what is open, and return its exit code."""
        if self._process.exitcode is None:  # without a pidfd, it may be a moment away
            self._process.join(1.0)
        code: int | None = self._process.exitcode
        if code is not None:
            self._process.join()  # takes it off the list of multiprocessing
        self.read_stack()
        self._close_descriptors()
        return code

    def close_in_child(self) -> None:
        """In a fork of the driver: close its copies, lest they keep the pipes open."""
        # Or multiprocessing would terminate the parent's worker when the child exits.
        _children.discard(self._process)
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        pipes = (self.orders.descriptor, self.control.descriptor, self.answers, self.stacks)
        for descriptor in (*pipes, self._pidfd):
            if descriptor is not None:
                os.close(descriptor)


class _Inherited:
    """A file descriptor, as an argument of a process to be spawned."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> Any:
        popen: Any = get_spawning_popen()  # there is one: this is called while it spawns
        return int, (popen.duplicate_for_child(self._descriptor),)


def _open_pidfd(process_id: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(process_id)
    except OSError:  # an old kernel, or a sandbox
        return None


def _widen(pipe: int) -> None:
    if sys.platform == "linux":
        # Large arguments and results then need fewer system calls. The user may have used up
        # what the kernel allows, and it works without.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
