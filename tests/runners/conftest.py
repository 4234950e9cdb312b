"""What the tests of runners share."""

import logging

import pytest


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Penstock's records through to the root logger, whatever a test before has configured."""
    logger = logging.getLogger("penstock")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logger.manager._clear_cache()  # type: ignore[attr-defined]  # as setLevel does
