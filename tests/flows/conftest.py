"""What the tests from the user's eye share: runners, the log, a check that nothing is left."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from penstock import settings
from penstock.engine.ambient import close_ambient_engine
from penstock.logging import TextFormatter, configure
from penstock_runners.dask_cluster.local import LocalClusterProcess
from penstock_runners.dask_cluster.where import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_WAIT_SECONDS = 10.0
"""For events and barriers: only a test that fails waits so long."""

PROCESSES = "process:2"
ELSEWHERE = [
    PROCESSES,
    # Dask leaves sockets to the garbage collector when a worker goes away.
    pytest.param("dask", marks=pytest.mark.filterwarnings("ignore::ResourceWarning")),
]
"""The runners whose workers are other processes; on Dask, a cluster that all tests share."""

KEPT_WARM = "penstock-processes"
"""The thread of a pool of worker processes, which stays for the next run on purpose."""


@pytest.fixture(params=["inline", "thread", "thread:1"])
def runner(request: pytest.FixtureRequest) -> str:
    """Name each of the runners that need no process of their own."""
    return str(request.param)


@pytest.fixture(params=["thread", "thread:1"])
def threads(request: pytest.FixtureRequest) -> str:
    """Name the runners that run beside the code that submits."""
    return str(request.param)


@pytest.fixture(scope="session")
def dask_address() -> Iterator[str]:
    """Return the address of a cluster of two workers, which all tests share."""
    cluster = LocalClusterProcess(Where(n_workers=2))
    yield cluster.address
    cluster.close()


@pytest.fixture(params=ELSEWHERE)
def elsewhere(request: pytest.FixtureRequest) -> str:
    """Name each of the runners whose workers are other processes."""
    return name_of_runner(request)


@pytest.fixture(params=[PROCESSES])
def processes(request: pytest.FixtureRequest) -> str:
    """Name each of the runners that look after their worker processes: they end them, say."""
    return str(request.param)


@pytest.fixture(params=["inline", "thread", *ELSEWHERE])
def anywhere(request: pytest.FixtureRequest) -> str:
    """Name a runner of each kind, for what is the same on all of them."""
    return name_of_runner(request)


def name_of_runner(request: pytest.FixtureRequest) -> str:
    """Return the name that a parameter stands for; who asks for Dask gets the cluster up."""
    name = str(request.param)
    return f"dask:{request.getfixturevalue('dask_address')}" if name == "dask" else name


@pytest.fixture(scope="module")
def sent_by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have workers get what a test module defines by value, without an import that takes long."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Close the ambient engine, and wait for every thread of Penstock's to end."""
    yield
    close_ambient_engine()
    for thread in threads_of_ours():
        thread.join(LONGEST_WAIT_SECONDS)
    assert [thread.name for thread in threads_of_ours()] == []


def threads_of_ours() -> list[threading.Thread]:
    """Return Penstock's threads that are not meant to outlive a run."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("penstock") and thread.name != KEPT_WARM
    ]


class Log:
    """What Penstock has logged: lines as on the console after the clock, and records."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._formatter = TextFormatter()

    @property
    def records(self) -> list[Any]:
        """The records; those of runs have fields that `logging` knows nothing of."""
        return [each for each in self._caplog.records if each.name.startswith("penstock")]

    @property
    def lines(self) -> list[str]:
        """Each record as on the console, without the clock."""
        return [self._formatter.format(record).partition(" | ")[2] for record in self.records]

    def show(self, level: int) -> None:
        """Let records of this level through, too."""
        self._caplog.set_level(level, "penstock")

    def clear(self) -> None:
        """Forget what was logged so far."""
        self._caplog.clear()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Send Penstock's log to caplog instead of to stderr."""
    monkeypatch.setenv("PENSTOCK_LOGGING_CONSOLE", "false")
    configure(settings.current())
    caplog.set_level(logging.INFO, "penstock")
    yield Log(caplog)
    monkeypatch.delenv("PENSTOCK_LOGGING_CONSOLE")
    configure(settings.current())


class Gate:
    """An event that a test opens; who waits for one that stays shut fails."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        """Let everybody through from now on."""
        self._event.set()

    def is_open(self) -> bool:
        """Whether somebody has opened it."""
        return self._event.is_set()

    def wait(self) -> None:
        """Wait until it is open."""
        assert self._event.wait(LONGEST_WAIT_SECONDS), "nobody came to open the gate"


@pytest.fixture
def gate() -> Gate:
    """One shut gate."""
    return Gate()


@pytest.fixture
def gates() -> Callable[[int], list[Gate]]:
    """Make several shut gates."""
    return lambda count: [Gate() for _ in range(count)]
