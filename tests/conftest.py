"""One choice for all tests: what hypothesis draws is the same in every run, on every machine."""

import logging
import os
import signal
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from penstock import logging as penstock_logging
from penstock_runners.process_pool.registry import POOLS

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Inherited from a shell that runs this in the background: Ctrl-C is what some tests are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def pools_of_its_own() -> Iterator[None]:
    """Let the tests of a module share warm workers, and leave none to the next one."""
    yield
    POOLS.end()


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Give each test Penstock's loggers as they are before the first run of a process."""
    _reset_logging()
    yield
    _reset_logging()


def _reset_logging() -> None:
    penstock_logging._applied = None
    for name in [each for each in logging.root.manager.loggerDict if each.startswith("penstock")]:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.disabled = False
        logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def fresh_results(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give each test a store of results of its own, which is made when something is stored."""
    folder = tmp_path_factory.getbasetemp() / "results" / uuid.uuid4().hex
    monkeypatch.setenv("PENSTOCK_RESULTS_LOCAL_STORAGE_PATH", str(folder))
