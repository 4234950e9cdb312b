"""Promise of decision D1: every sample of seed page 000 runs under the alias `prefect`.

The samples are in `seeds/`, one file a block, word for word. What was changed to make them Python
at all, and nothing else, is in `CHANGES`. Two blocks (000_10, 000_14) go on from earlier imports
on their page, and one (000_09) replaces a function of the block before it. Page 001 has its
tests in `test_seed_samples_001.py`.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import itertools
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import settings
from penstock.compat import prefect_alias

SEEDS = Path(__file__).parent / "seeds"

REST = "(rest of code follows)"
FAILING = 'raise RuntimeError("the rest of the code")'
CHANGES: dict[str, tuple[str, str, str]] = {
    # block: spec row, what the page has, what it needs
    "000_13_run_name_from_runtime": ("098", "import flow\n", "import flow, task\n"),
    "000_18_retry_delays": ("115", REST, FAILING),
    "000_20_exponential_backoff": ("115", REST, FAILING),
    "000_21_jitter": ("115", REST, FAILING),
}

Namespace = dict[str, Any]


def run_block(block: str, namespace: Namespace | None = None, *, as_main: bool = True) -> Namespace:
    """Execute a block as a script of its own, or after what `namespace` holds already."""
    path = SEEDS / f"{block}.py.txt"
    text = path.read_text(encoding="utf-8")
    if block in CHANGES:
        _, before, after = CHANGES[block]
        assert text.count(before) == 1
        text = text.replace(before, after)
    scope = {} if namespace is None else namespace
    scope["__name__"] = "__main__" if as_main else "sample"
    with prefect_alias():
        exec(compile(text, str(path), "exec", dont_inherit=True), scope)
    return scope


# --- what the samples talk to, and what they write ---------------------------------------

API = "https://api.github.com/repos/PrefectHQ/prefect"
STATISTICS_LINES = [
    "INFO    | Flow run 'NAME' - PrefectHQ/prefect repository statistics 🤓:",
    "INFO    | Flow run 'NAME' - Stars 🌠 : 12157",
    "INFO    | Flow run 'NAME' - Forks 🍴 : 1251",
]
AVERAGE_LINE = "INFO    | Flow run 'NAME' - Average open issues per user 💌 : 2.27"


@pytest.fixture
def httpx(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put `fake_httpx` in the place of httpx: `asked` has the calls, `plan` what they give."""
    spec = importlib.util.spec_from_file_location("httpx", SEEDS / "fake_httpx.py")
    assert spec is not None
    assert spec.loader is not None
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    monkeypatch.setitem(sys.modules, "httpx", fake)
    return fake


Lines = Callable[[], list[str]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Return the log lines since the last call, without the clock and the flow run's name."""

    def read() -> list[str]:
        written = capsys.readouterr().err.splitlines()
        found = [match[1] for match in map(_CLOCK.fullmatch, written) if match]
        name = next((m[1] for m in map(_FLOW_RUN.search, found) if m), None)
        return [line.replace(repr(name), "'NAME'") for line in found]

    return read


_CLOCK = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \| (.*)")
_FLOW_RUN = re.compile(r"Created flow run '([^']+)'")


def assert_in_order(wanted: Sequence[str], written: Sequence[str]) -> None:
    """Each wanted line was written, in this order; others may stand between them."""
    rest = iter(written)
    missing = [line for line in wanted if line not in rest]
    assert not missing, "\n".join([f"missing or out of order: {missing[0]}", *written])


# --- 000: the first flow, and kinds of function ------------------------------------------


def test_seed_013_to_035_the_first_sample_writes_the_lines_of_its_page(
    httpx: Any, lines: Lines
) -> None:
    run_block("000_01_repo_info")
    assert httpx.asked == [API]
    assert_in_order(
        [
            "INFO    | penstock.engine - Created flow run 'NAME' for flow 'get-repo-info'",
            "INFO    | Flow run 'NAME' - Created task run 'get_url-0' for task 'get_url'",
            "INFO    | Flow run 'NAME' - Executing 'get_url-0' immediately...",
            "INFO    | Task run 'get_url-0' - Finished in state Completed()",
            *STATISTICS_LINES,
            "INFO    | Flow run 'NAME' - Finished in state Completed('All states completed.')",
        ],
        lines(),
    )


def test_seed_024_the_first_sample_retries_when_its_request_fails(httpx: Any, lines: Lines) -> None:
    sample = run_block("000_01_repo_info", as_main=False)
    httpx.plan = iter([httpx.ConnectError("no route")])
    sample["get_repo_info"].with_options(retry_delay_seconds=0)()
    assert httpx.asked == [API, API]
    assert_in_order(STATISTICS_LINES, lines())


def test_seed_047_a_task_runs_outside_of_a_flow(capsys: pytest.CaptureFixture[str]) -> None:
    run_block("000_02_sync_function")
    assert capsys.readouterr().out == "Hello, I'm a task\n"


def test_seed_048_an_async_task_is_a_coroutine_to_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def brief_sleep(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", brief_sleep)
    run_block("000_03_async_function")
    assert 1 in slept
    assert capsys.readouterr().out == "Hello, I'm an async task\n"


def test_seed_050_to_052_methods_of_all_kinds_are_tasks(lines: Lines) -> None:
    run_block("000_04_methods")
    assert_in_order(
        [
            f"INFO    | Task run '{name}' - Finished in state Completed()"
            for name in ("my_instance_method", "my_class_method", "my_static_method")
        ],
        lines(),
    )


def test_seed_054_to_058_a_generator_task_feeds_another_task(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_block("000_05_generator")
    assert capsys.readouterr().out.split() == [str(number) for number in range(10)]


def test_seed_059_and_060_a_returned_generator_is_consumed_to_a_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = run_block("000_06_returned_generator")
    assert capsys.readouterr().out == "Generator consumed!\n"
    assert sample["f"]() == [1, 2, 3]


def test_seed_062_a_yielded_generator_is_not_consumed_by_the_task(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_block("000_07_yielded_generator")
    assert capsys.readouterr().out == "Generator consumed!\n"


# --- 000: concurrency --------------------------------------------------------------------


def test_seed_064_to_072_the_sample_in_sequence_counts_issues_per_user(
    httpx: Any, lines: Lines
) -> None:
    run_block("000_08_open_issues")
    assert_in_order([*STATISTICS_LINES, AVERAGE_LINE], lines())


def test_seed_032_to_038_and_068_to_070_the_sample_with_submit_logs_as_on_its_page(
    httpx: Any, lines: Lines
) -> None:
    sample = run_block("000_08_open_issues", as_main=False)
    run_block("000_09_open_issues_submitted", sample, as_main=False)
    sample["get_repo_info"]()
    written = lines()
    assert_in_order(
        [
            "INFO    | Flow run 'NAME' - Executing 'get_url-0' immediately...",
            *itertools.chain.from_iterable(
                (
                    f"INFO    | Flow run 'NAME' - Created task run '{name}' for task 'get_url'",
                    f"INFO    | Flow run 'NAME' - Submitted task run '{name}' for execution.",
                )
                for name in ("get_url-1", "get_url-2", "get_url-3")
            ),
            *STATISTICS_LINES,
            AVERAGE_LINE,
            "INFO    | Flow run 'NAME' - Finished in state Completed('All states completed.')",
        ],
        written,
    )
    for number in (1, 2, 3):
        finished = f"INFO    | Task run 'get_url-{number}' - Finished in state Completed()"
        assert_in_order([finished, AVERAGE_LINE], written)


# --- 000: names, tags, timeouts ----------------------------------------------------------


def test_seed_073_074_090_a_task_takes_a_name_and_a_description(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = run_block("000_10_name_and_description", run_block("000_02_sync_function"))
    my_task = sample["my_task"]
    assert (my_task.name, my_task.description) == ("hello-task", "This task says hello.")
    capsys.readouterr()
    my_task()
    assert capsys.readouterr().out == "Hello, I'm a task\n"


def weekdays_now() -> set[str]:
    """Today's name, and the name it may have had when the sample began."""
    now = datetime.datetime.now(datetime.UTC)
    return {f"{moment:%A}" for moment in (now, now - datetime.timedelta(minutes=5))}


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ("000_11_run_name_template", "hello-marvin-on-{}"),
        ("000_12_run_name_function", "{}-is-a-lovely-day"),
    ],
)
def test_seed_091_092_a_run_is_named_by_a_template_or_a_function(
    block: str, name: str, lines: Lines
) -> None:
    run_block(block)
    ends = {
        f"INFO    | Task run '{name.format(day)}' - Finished in state Completed()"
        for day in weekdays_now()
    }
    assert ends & set(lines())


def test_seed_093_to_098_a_naming_function_asks_the_runtime(lines: Lines) -> None:
    sample = run_block("000_13_run_name_from_runtime")
    sample["my_flow"]("anybody")
    name = "my-flow-my-example-task-with-marvin-and-100"
    assert f"INFO    | Task run '{name}' - Finished in state Completed()" in lines()


def test_seed_103_tags_are_an_option_of_the_task() -> None:
    sample = run_block("000_14_tags_option", run_block("000_02_sync_function"))
    assert set(sample["my_task"].tags) == {"test"}


def test_seed_104_tags_come_from_the_block_around_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, set[str]] = {}
    logger = logging.getLogger("penstock.task_runs")
    monkeypatch.setattr(logger, "handle", lambda r: seen.update({r.task_name: set(r.tags)}))
    run_block("000_15_tags_context")
    assert seen == {"my_task": {"test"}}


def test_seed_105_108_a_task_over_its_time_fails_and_does_not_go_on(lines: Lines) -> None:
    show_timeouts = run_block("000_16_timeout")["show_timeouts"]
    assert show_timeouts.timeout_seconds == 1
    with pytest.raises(TimeoutError):
        show_timeouts.with_options(timeout_seconds=0.1)()
    written = lines()
    assert "INFO    | Task run 'show_timeouts' - I will execute" in written
    assert not [line for line in written if "I will not execute" in line]
    assert [line for line in written if "TimedOut" in line]


# --- 000: retries ------------------------------------------------------------------------


def test_seed_113_the_retry_sample_runs_while_the_service_is_well(httpx: Any) -> None:
    run_block("000_17_retries")
    assert httpx.asked == ["https://api.brittle-service.com/endpoint"]


def test_seed_110_111_the_retry_sample_tries_three_times_in_all(httpx: Any) -> None:
    sample = run_block("000_17_retries", as_main=False)
    sample["get_data_task"] = sample["get_data_task"].with_options(retry_delay_seconds=0)
    httpx.plan = itertools.repeat(500)
    with pytest.raises(httpx.HTTPStatusError):
        sample["get_data_flow"]()
    assert len(httpx.asked) == 3


@pytest.mark.parametrize(
    ("block", "task_name", "delays"),
    [
        ("000_18_retry_delays", "some_task_with_manual_backoff_retries", [1, 10, 100]),
        ("000_20_exponential_backoff", "some_task_with_exponential_backoff_retries", [10, 20, 40]),
        ("000_21_jitter", "some_task_with_exponential_backoff_retries", [10, 20, 40]),
    ],
)
def test_seed_114_115_119_to_123_delays_are_a_list_or_a_function_that_gives_one(
    block: str, task_name: str, delays: list[int], lines: Lines
) -> None:
    some_task = run_block(block)[task_name]
    given = some_task.options["retry_delay_seconds"]
    assert list(given(3) if callable(given) else given) == delays
    with pytest.raises(RuntimeError, match="the rest of the code"):
        some_task.with_options(retry_delay_seconds=0)()
    assert [line for line in lines() if "Retry 3/3 will start" in line]


def test_seed_118_the_retry_condition_sample_retries_a_503(httpx: Any) -> None:
    httpx.plan = itertools.repeat(503)
    with pytest.raises(httpx.HTTPStatusError):
        run_block("000_19_retry_condition")
    assert httpx.asked == ["https://httpbin.org/status/503"] * 2


@pytest.mark.parametrize(
    ("failure", "calls"),
    [(401, 1), (404, 1), (500, 2), ("ConnectError", 1), (KeyError("other"), 2)],
)
def test_seed_116_to_118_the_condition_decides_by_the_exception_of_the_task(
    failure: int | str | Exception, calls: int, httpx: Any
) -> None:
    sample = run_block("000_19_retry_condition", as_main=False)
    if failure == "ConnectError":
        failure = httpx.ConnectError("no route")
    httpx.plan = itertools.repeat(failure)
    with pytest.raises(type(failure) if isinstance(failure, Exception) else httpx.HTTPStatusError):
        sample["get_data_flow"](url="https://example.com")
    assert len(httpx.asked) == calls


def test_seed_124_to_126_the_settings_of_the_page_hold_for_tasks_that_do_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for line in (SEEDS / "000_22_settings.sh.txt").read_text().splitlines():
        name, _, value = line.removeprefix("prefect config set ").partition("=")
        monkeypatch.setenv(name.strip(), value.strip())
    assert settings.current().tasks_default_retries == 2
    assert settings.current().tasks_default_retry_delay_seconds == (1, 10, 100)


# --- the table ---------------------------------------------------------------------------


def test_d1_every_block_is_run_here_and_only_rows_098_and_115_are_changed() -> None:
    blocks = {path.name.partition(".")[0] for path in SEEDS.glob("000_*")}
    here = Path(__file__).read_text(encoding="utf-8")
    assert len(blocks) == 22
    assert [block for block in blocks if f'"{block}' not in here.partition("Namespace =")[2]] == []
    assert {row for row, _, _ in CHANGES.values()} == {"098", "115"}
    assert CHANGES.keys() <= blocks
