"""A program for `test_race`: drivers on one store, each killed again and again at random moments.

    python race.py FOLDER SEED

Each driver goes through the same keys. It reads a key without its lock; then it takes the lock,
and makes the value if there is none. What it saw it notes in a file. Prints the number of kills.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from penstock.locking import FileLockManager
from penstock.results import ResultStore

DRIVERS = 4
KEYS = [f"key-{number}" for number in range(120)]
LEAST_KILLS = 30
MOST_SECONDS = 20.0
LONGEST_LIFE_SECONDS = 0.04


def store_in(folder: Path) -> ResultStore:
    return ResultStore(folder / "store")


def locks_in(folder: Path) -> FileLockManager:
    return FileLockManager(folder / "locks")


def value_by(maker: str, key: str, size: int) -> dict[str, Any]:
    return {"key": key, "maker": maker, "filler": maker * size}


def is_whole(value: dict[str, Any], key: str) -> bool:
    maker, filler = value["maker"], value["filler"]
    return bool(value["key"] == key and filler == maker * (len(filler) // len(maker)))


def drive(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    store, locks = store_in(folder), locks_in(folder)
    me = f"{os.getpid()}-{seed}"
    notes = os.open(folder / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*words: str) -> None:
        os.write(notes, (" ".join(words) + "\n").encode())  # one call, so one line or none

    class ToNotes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note("warning", record.getMessage())

    logging.getLogger("penstock.results").addHandler(ToNotes())

    def see(key: str, record: Any) -> None:
        if record is not None:
            note("saw" if is_whole(record.value, key) else "half", key, record.value["maker"])

    for key in KEYS:
        see(key, store.read(key))
        if not locks.acquire_lock(key, me, acquire_timeout=MOST_SECONDS):
            note("stuck", key)
        record = store.read(key)
        if record is None:
            store.write(key, value_by(me, key, chance.randrange(1, 60_000)))
            record = store.read(key)
            if record is None:
                note("lost", key)
        see(key, record)
        locks.release_lock(key, me)
        if chance.random() < 0.05:
            store.collect()


def start(folder: Path, seed: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            drive(folder, seed)
            status = 0
        finally:
            os._exit(status)
    return child


def main(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    seeds = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))
    running = [start(folder, next(seeds)) for _ in range(DRIVERS)]
    kills, ended = 0, 0
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline and not (ended and kills >= LEAST_KILLS):
        time.sleep(chance.random() * LONGEST_LIFE_SECONDS)
        victim = running.pop(chance.randrange(DRIVERS))
        os.kill(victim, signal.SIGKILL)  # it is ours until it is waited for, also if it has ended
        _, status = os.waitpid(victim, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        elif os.WEXITSTATUS(status) == 0:
            ended += 1
        else:
            print("a driver failed")
        running.append(start(folder, next(seeds)))
    for child in running:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # The last one is left in peace, and has to find every lock free.
    drive(folder, next(seeds))
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
