"""A census of Python code: what is large, what is tangled, what was copied; a batch job.

Every file of a tree is read, measured and fingerprinted, each as a task of its own; the results
are reduced to a ranked report, on the terminal and as JSON and Markdown in `census-report/`.

    penstock run examples/code_census.py                                # the standard library
    penstock run examples/code_census.py --root ~/src --runner thread:4
    python examples/code_census.py

What is found in a text is kept under a hash of the text, so that a second census parses the files
that have changed and no others. `penstock cache stats` counts what is kept, `--no-cache` does not
look at it, and `penstock cache rm --task measure_file` makes the next census measure anew.

The analysis itself is in `census/`, next to this file, and knows nothing of Penstock.
"""

import sys
from pathlib import Path
from typing import Any

from census.duplicates import DuplicateGroup, find_groups
from census.fingerprints import FunctionPrint, fingerprint
from census.measure import FileMeasure, measure
from census.ranking import Census, rank
from census.report import checked_output, write
from census.sources import Listing, Skipped, Unusable, checked_root, find, read
from census.terminal import as_tables
from rich.console import Console

from penstock import flow, task, unmapped
from penstock.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE_DEEP, CachePolicy
from penstock.futures import PenstockFuture
from penstock.states import State


class PythonVersion(CachePolicy):
    """What a text parses to depends on the Python that parses it."""

    def compute_key(self, *_: Any, **__: Any) -> str:
        """Return the version whose grammar counts."""
        return "{}.{}".format(*sys.version_info)


# The text counts and not its path: a file that moved is the same, and one that was changed and
# has its old time again is not. So does the code in `census/`, by which the text is looked at.
BY_CONTENT = INPUTS + TASK_SOURCE_DEEP + PythonVersion()


def could_not_read(state: State[Any]) -> bool:
    """Try again what the disk or the network refused; a broken file stays broken."""
    return isinstance(state.result(raise_on_failure=False), OSError)


@task
def find_sources(root: Path, include_tests: bool) -> Listing:
    """List the files of the tree."""
    return find(root, include_tests=include_tests)


@task(retries=2, retry_delay_seconds=[0.1, 0.5], retry_condition_fn=could_not_read)
def read_source(root: Path, path: str) -> str:
    """Return the text of one file."""
    return read(root / path)


# Failures are not kept: a file that does not parse is tried again.
@task(cache_policy=BY_CONTENT)
def measure_file(text: str) -> FileMeasure:
    """Count what its functions are made of."""
    return measure(text)


# Takes the text and nothing else: what it finds is true of the text, wherever the file may be.
@task(cache_policy=BY_CONTENT)
def fingerprint_file(text: str) -> tuple[FunctionPrint, ...]:
    """Make its functions comparable, whatever they are called."""
    return fingerprint(text)


@task
def find_duplicates(
    prints: dict[str, tuple[FunctionPrint, ...]], min_lines: int
) -> tuple[DuplicateGroup, ...]:
    """Group functions that are near copies of each other, over all files."""
    return find_groups(prints, min_lines=min_lines)


@task
def write_report(census: Census, folder: Path) -> tuple[Path, ...]:
    """Write the report for programs and the one for people."""
    return write(census, folder)


@flow(name="code-census", log_prints=True)
def code_census(
    root: str | None = None,
    output: str = "census-report",
    top: int = 20,
    min_lines: int = 5,
    include_tests: bool = False,
    cache: bool = True,
) -> Census:
    """Take a census of a tree of Python code.

    Args:
        root: The folder to look at; without it the standard library of this Python.
        output: The folder for `census.json` and `census.md`.
        top: How many rows each ranking has.
        min_lines: How long a function must be to count as a duplicate.
        include_tests: Look into folders of tests, too.
        cache: Take what an earlier census found in equal texts, and keep what this one finds.
    """
    if top < 1 or min_lines < 1:
        raise ValueError(f"top={top} and min_lines={min_lines} must both be 1 or more.")
    folder = checked_root(root)
    destination = checked_output(output)

    listing = find_sources(folder, include_tests)
    print(f"{len(listing.files)} files below {folder}")

    texts = read_source.map(unmapped(folder), listing.files)
    policy = BY_CONTENT if cache else NO_CACHE
    measuring = measure_file.with_options(cache_policy=policy).map(texts)
    fingerprinting = fingerprint_file.with_options(cache_policy=policy).map(texts)

    measures: dict[str, FileMeasure] = {}
    prints: dict[str, tuple[FunctionPrint, ...]] = {}
    skipped = list(listing.skipped)
    steps = zip(listing.files, texts, measuring, fingerprinting, strict=True)
    for path, text, measured, fingerprinted in steps:
        failure = first_failure(text, measured, fingerprinted)
        if failure is None:
            measures[path], prints[path] = measured.result(), fingerprinted.result()
        else:
            skipped.append(Skipped(path, reason(failure)))

    parsed = sum(not was_cached(*steps) for steps in zip(measuring, fingerprinting, strict=True))
    print(f"{parsed} files parsed, {len(listing.files) - parsed} found in the cache")

    groups = find_duplicates(prints, min_lines)
    census = rank(measures, groups, skipped, top=top)
    for written in write_report(census, destination):
        print(f"wrote {written}")
    for table in as_tables(census, top=top):
        Console().print(table)
    return census


def first_failure(*steps: PenstockFuture[Any]) -> BaseException | None:
    """Wait for the steps of one file and return the first failure, the cause of any after it.

    Who asks for a state has looked: a bad file does not fail the flow. Nobody asks for a result
    that is not used, so texts may stay where they are.
    """
    for step in steps:
        step.wait()
    failures = [step.state.exception() for step in steps]
    return next((failure for failure in failures if failure is not None), None)


def was_cached(*steps: PenstockFuture[Any]) -> bool:
    """Return whether all that was asked about one file was known already."""
    return all(step.state.name == "Cached" for step in steps)


def reason(failure: BaseException) -> str:
    """Return why a file was left out, in words that are the same on any machine."""
    match failure:
        case Unusable():
            return str(failure)
        case OSError(strerror=str(why)):
            return f"unreadable: {why}"
    return f"{type(failure).__name__}: {failure}"


if __name__ == "__main__":
    code_census()
