"""What tests in several folders need. Nothing here goes to a worker: those cannot import it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from penstock.task_runners import KeptResult

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(is_so: Callable[[], bool], limit_seconds: float = 20.0) -> None:
    """Wait for what nothing tells of: processes, sockets, files of other processes."""
    deadline = time.monotonic() + limit_seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def hashes_elsewhere(file: str, module: str, function: str, seed: str) -> list[str]:
    """Return the stable hashes of what a function of a test module gives, in a fresh process."""
    program = (
        "import json, runpy, sys\n"
        "from penstock.hashing import stable_hash\n"
        "there = runpy.run_path(sys.argv[1], run_name=sys.argv[2])\n"
        "print(json.dumps([stable_hash(value) for value in there[sys.argv[3]]()]))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, file, module, function],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        check=True,
    )
    hashes: list[str] = json.loads(answer.stdout)
    return hashes


class KeptUntilLost(KeptResult):
    """Holds a value until it is lost, and then what took its place."""

    def __init__(self, value: Any, runner: Any) -> None:
        super().__init__(100, runner)
        self.value = value
        self.is_lost = False
        self.heirs: list[Any] = []

    def current(self) -> Any:
        here: Any = self
        while isinstance(here, KeptUntilLost) and here.heirs:
            here = here.heirs[0]
        return here

    def fetch(self) -> Any:
        here = self.current()
        if not isinstance(here, KeptUntilLost):
            return here
        if here.is_lost:
            raise LookupError("the result was lost")
        return here.value

    def superseded_by(self, value: Any) -> None:
        self.heirs.append(value)
