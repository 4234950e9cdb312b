"""Promises about transactions, from the user's eye: section 6 of the features, options T24, T25."""

from __future__ import annotations

import asyncio
import pathlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from penstock import flow, task
from penstock.cache_policies import INPUTS
from penstock.exceptions import HookSignatureError
from penstock.results import ResultStore
from penstock.settings import current
from penstock.transactions import (
    CommitMode,
    IsolationLevel,
    Transaction,
    get_transaction,
    transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.flows.conftest import Log

    from penstock.runs import Run

pytestmark = pytest.mark.usefixtures("sent_by_value")


class Told(list[str]):
    """What hooks have told, in order."""

    def hook(self, word: str) -> Callable[[Transaction], None]:
        def tell(txn: Transaction) -> None:
            self.append(word)

        return tell


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def step(told: Told) -> Callable[..., Any]:
    """Make tasks whose hooks tell of them."""

    def make(name: str, **options: Any) -> Any:
        def fn(*inputs: Any) -> str:
            told.append(name)
            return name

        return task(
            fn,
            name=name,
            on_commit=told.hook(f"commit {name}"),
            on_rollback=told.hook(f"undo {name}"),
            **options,
        )

    return make


@task
def fail(*inputs: Any) -> None:
    raise ValueError("no luck")


def stored() -> list[Any]:
    store = ResultStore(current().results_local_storage_path)
    found = [store.read(record.key) for record in store.records()]
    return [record.value for record in found if record is not None]


def names(run: Run) -> list[str]:
    return [state.name for state in run.states]


# --- hooks --------------------------------------------------------------------------------


def test_t25_without_a_block_a_task_is_committed_when_it_ends(
    anywhere: str, told: Told, step: Any
) -> None:
    @task(on_commit=told.hook("commit"))
    def work() -> None: ...

    @flow(task_runner=anywhere)
    def body() -> None:
        work.submit().result()
        told.append("after")
        work()

    body()
    assert told == ["commit", "after", "commit"]


def test_t24_and_t25_hooks_as_options_and_as_decorators(told: Told) -> None:
    @task(on_commit=[told.hook("first")], on_rollback=told.hook("undo first"))
    def work() -> None: ...

    @work.on_commit
    def second(txn: Transaction) -> None:
        told.append("second")

    @work.on_rollback
    def undo_second(txn: Transaction) -> None:
        told.append("undo second")

    work.with_options(retries=1)()
    assert told == ["first", "second"]
    told.clear()
    with pytest.raises(ValueError, match="no luck"), transaction():  # noqa: PT012
        work()
        raise ValueError("no luck")
    assert told == ["undo second", "undo first"]
    assert callable(second)


def test_hooks_get_the_transaction_and_run_in_the_driver(anywhere: str) -> None:
    seen: list[Any] = []

    def look(txn: Transaction) -> None:
        seen.append((type(txn), threading.get_ident()))

    @task(on_commit=look)
    def work() -> int:
        return 1

    @flow(task_runner=anywhere)
    def body() -> None:
        work.submit().wait()

    body()
    ((kind, thread),) = seen
    assert issubclass(kind, Transaction)
    assert thread == threading.get_ident()


def test_async_hooks_are_awaited(told: Told) -> None:
    async def look(txn: Transaction) -> None:
        await asyncio.sleep(0)
        told.append("commit")

    @task(on_commit=look)
    def work() -> None: ...

    work()
    assert told == ["commit"]


def test_what_is_no_hook_is_refused_at_the_definition() -> None:
    with pytest.raises(HookSignatureError):
        task(on_commit="print")(lambda: None)  # type: ignore[arg-type]


def test_a_hook_that_fails_harms_no_run(runner: str, log: Log) -> None:
    def broken(txn: Transaction) -> None:
        raise OSError("disk full")

    @task(on_commit=broken)
    def work() -> int:
        return 1

    @flow(task_runner=runner)
    def body() -> int:
        return work.submit().result()

    assert body() == 1
    assert any("'broken' failed" in line for line in log.lines)


# --- a block ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["call", "submit"])
def test_a_block_is_committed_as_a_whole_at_its_end(
    runner: str, told: Told, step: Any, how: str
) -> None:
    one, two = (step(name, persist_result=True) for name in ("one", "two"))

    @flow(task_runner=runner)
    def body() -> None:
        with transaction():
            for each in (one, two):
                each() if how == "call" else each.submit().wait()
            assert stored() == []
            told.append("end of the block")

    body()
    assert told == ["one", "two", "end of the block", "commit one", "commit two"]
    assert sorted(stored()) == ["one", "two"]


@pytest.mark.parametrize("how", ["call", "submit"])
def test_a_failure_rolls_back_what_was_done_the_last_first(
    anywhere: str, told: Told, step: Any, how: str
) -> None:
    @task(on_rollback=told.hook("undo one"), persist_result=True)
    def one() -> str:
        return "one"

    @task(on_rollback=told.hook("undo two"), persist_result=True)
    def two() -> str:
        return "two"

    @flow(task_runner=anywhere)
    def body() -> None:
        with transaction():
            for each in (one, two, fail):
                each() if how == "call" else each.submit().result()

    with pytest.raises(ValueError, match="no luck"):
        body()
    assert told == ["undo two", "undo one"]
    assert stored() == []


def test_a_failure_that_is_caught_rolls_the_block_back_all_the_same(
    runner: str, told: Told, step: Any
) -> None:
    one = step("one")

    @flow(task_runner=runner)
    def body() -> str:
        with transaction() as txn:
            one()
            fail.submit().wait()
        return txn.state.name

    assert body(return_state=True).is_failed()  # nobody looked at the failure
    assert told == ["one", "undo one"]
    told.clear()

    @flow(task_runner=runner)
    def caught() -> str:
        with transaction() as txn:
            one()
            assert isinstance(fail(return_state=True).exception(), ValueError)
        return txn.state.name

    assert caught() == "ROLLED_BACK"
    assert told == ["one", "undo one"]


def test_what_is_done_after_a_rollback_is_undone_as_well(told: Told, step: Any) -> None:
    one, two = step("one"), step("two")

    @flow
    def body() -> None:
        with transaction():
            one()
            fail(return_state=True)
            two()

    body()
    assert told == ["one", "undo one", "two", "undo two"]


def test_a_rolled_back_run_says_so_in_its_history(runner: str, step: Any) -> None:
    one = step("one")
    runs: list[Run] = []

    @flow(task_runner=runner)
    def body() -> None:
        with transaction():
            runs.append(one.submit().run)
            runs[0].engine.wait_for_run(runs[0], None)
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        body()
    assert names(runs[0]) == ["Pending", "Running", "Completed", "RolledBack"]
    assert runs[0].state.is_completed()
    assert runs[0].state.result() == "one"


def test_a_retry_does_not_roll_back(runner: str, told: Told) -> None:
    attempts: list[int] = []

    @task(retries=1, on_commit=told.hook("commit"), on_rollback=told.hook("undo"))
    def flaky() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("the network")

    @flow(task_runner=runner)
    def body() -> None:
        with transaction():
            flaky.submit().result()

    body()
    assert told == ["commit"]


def test_blocks_nest(told: Told, step: Any) -> None:
    one, two, three = (step(name) for name in ("one", "two", "three"))

    @flow
    def body(*, fails: bool) -> None:
        with transaction():
            one()
            with transaction():
                two()
            three()
            if fails:
                raise ValueError("no luck")

    body(fails=False)
    assert told == ["one", "two", "three", "commit one", "commit two", "commit three"]
    told.clear()
    with pytest.raises(ValueError, match="no luck"):
        body(fails=True)
    assert told == ["one", "two", "three", "undo three", "undo two", "undo one"]


def test_a_block_without_a_flow(told: Told, step: Any) -> None:
    one = step("one")
    with transaction():
        one()
        one.submit().wait()
    assert told == ["one", "one", "commit one", "commit one"]


def test_async_blocks(told: Told) -> None:
    @task(on_commit=told.hook("commit"), on_rollback=told.hook("undo"))
    async def work() -> None:
        await asyncio.sleep(0)

    @flow
    async def body(*, fails: bool) -> None:
        async with transaction():
            await work()
            await work.submit()
            assert told == []
            if fails:
                await task(_fail_async)()

    asyncio.run(body(fails=False))
    assert told == ["commit"] * 2
    told.clear()
    with pytest.raises(ValueError, match="no luck"):
        asyncio.run(body(fails=True))
    assert told == ["undo"] * 2


async def _fail_async() -> None:
    raise ValueError("no luck")


def test_a_task_in_a_thread_may_open_a_block_of_its_own(told: Told, step: Any) -> None:
    one, two = step("one"), step("two")

    @task
    def work(*, fails: bool) -> None:
        with transaction():
            one()
            two.submit().wait()
            if fails:
                raise ValueError("no luck")

    @flow(task_runner="thread:1")
    def body(*, fails: bool) -> None:
        work.submit(fails=fails).wait()

    body(fails=False)
    assert told == ["one", "two", "commit one", "commit two"]
    told.clear()
    assert body(fails=True, return_state=True).is_failed()
    assert told == ["one", "two", "undo two", "undo one"]


def test_a_block_in_the_flow_is_not_that_of_a_task_in_a_thread(told: Told, step: Any) -> None:
    one = step("one")

    @task
    def work() -> None:
        one()

    @flow(task_runner="thread:1")
    def body() -> None:
        future = work.submit()
        with transaction() as txn:
            future.wait()  # the thread that waits drives what the other does
            assert txn.is_active()
            assert told == ["one", "commit one"]

    body()


# --- values, modes, keys ------------------------------------------------------------------


def test_values_reach_the_hooks(runner: str, told: Told) -> None:
    def undo(txn: Transaction) -> None:
        told.append(f"undo {txn.get('path')}")

    @task(on_rollback=undo)
    def write(path: str) -> None: ...

    @flow(task_runner=runner)
    def body() -> None:
        with transaction() as txn:
            txn.set("path", "report.txt")
            write.submit("report.txt").result()
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        body()
    assert told == ["undo report.txt"]


@pytest.mark.parametrize("how", ["call", "submit", "await"])
@pytest.mark.parametrize("in_block", [True, False])
def test_a_task_sets_values_for_its_own_hooks(
    told: Told, runner: str, how: str, in_block: bool
) -> None:
    def undo(txn: Transaction) -> None:
        told.append(f"undo {txn.get('path')}")

    def write(path: str) -> None:
        txn = get_transaction()
        assert txn is not None
        txn.set("path", path)

    async def write_async(path: str) -> None:
        write(path)

    options: Any = {"on_rollback": undo}
    sync_task, async_task = task(write, **options), task(write_async, **options)

    @flow(task_runner=runner)
    async def body() -> None:
        around = transaction() if in_block else None
        if around is not None:
            around.__enter__()
        for path in ("one", "two"):
            if how == "await":
                await async_task(path)
            elif how == "call":
                sync_task(path)
            else:
                sync_task.submit(path).result()
        error = ValueError("no luck")
        if around is not None:
            around.__exit__(ValueError, error, None)
        raise error

    with pytest.raises(ValueError, match="no luck"):
        asyncio.run(body())
    assert told == ["undo two", "undo one"]


def test_commit_modes_in_a_flow(told: Told, step: Any) -> None:
    one, two = step("one"), step("two")

    @flow
    def body() -> None:
        with transaction():
            with transaction(commit_mode=CommitMode.EAGER):
                one()
            two()
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        body()
    assert told == ["one", "commit one", "two", "undo two"]
    told.clear()
    with transaction(commit_mode=CommitMode.OFF):
        one()
    assert told == ["one", "undo one"]


def test_a_block_with_a_key_is_skipped_when_it_was_committed(told: Told, step: Any) -> None:
    one = step("one")

    @flow
    def body() -> str:
        with transaction(key="import-2026-01-05") as txn:
            if txn.is_committed():
                return "skipped"
            one()
            txn.stage("imported")
        return "done"

    assert [body(), body()] == ["done", "skipped"]
    assert told == ["one", "commit one"]
    assert stored() == ["imported"]


def test_a_block_with_a_key_that_was_rolled_back_is_done_again(told: Told, step: Any) -> None:
    one = step("one")

    @flow
    def body(*, fails: bool) -> None:
        with transaction(key="import") as txn:
            if not txn.is_committed():
                one()
                if fails:
                    raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        body(fails=True)
    body(fails=False)
    body(fails=False)
    assert told == ["one", "undo one", "one", "commit one"]


def test_two_flows_with_a_serializable_block_follow_one_another(told: Told) -> None:
    inside = threading.Semaphore(1)

    @flow
    def body() -> None:
        with transaction(key="k", isolation_level=IsolationLevel.SERIALIZABLE) as txn:
            assert inside.acquire(blocking=False), "there is another one inside"
            told.append("skipped" if txn.is_committed() else "done")
            inside.release()

    threads = [threading.Thread(target=body) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(told) == ["done", "skipped", "skipped"]


def test_cached_tasks_in_a_block(told: Told, step: Any) -> None:
    one = step("one", cache_policy=INPUTS)

    @flow
    def body() -> list[str]:
        with transaction():
            return [str(one(1, return_state=True).name), str(one(1, return_state=True).name)]

    assert body()[0] == "Completed"
    assert body() == ["Cached", "Cached"]
    assert told.count("commit one") == told.count("one")


# --- a flow that fails ---------------------------------------------------------------------


def test_a_flow_that_fails_undoes_what_its_tasks_did_outside_of_blocks(
    anywhere: str, told: Told
) -> None:
    @task(on_rollback=told.hook("undo one"))
    def one() -> None: ...

    @task(on_rollback=told.hook("undo two"))
    def two() -> None: ...

    runs: list[Run] = []

    @flow(task_runner=anywhere)
    def body() -> None:
        one()
        future = two.submit()
        runs.append(future.run)
        future.wait()
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        body()
    assert told == ["undo two", "undo one"]
    assert runs[0].state.name == "RolledBack"


def test_a_flow_that_ends_well_undoes_nothing(runner: str, told: Told, step: Any) -> None:
    one = step("one")
    body = flow(lambda: one.submit().wait(), name="body", task_runner=runner)
    body()
    assert told == ["one", "commit one"]


def test_a_retry_of_the_flow_that_succeeds_undoes_nothing(told: Told, step: Any) -> None:
    one = step("one")
    attempts: list[int] = []

    @flow(retries=1)
    def body() -> None:
        attempts.append(1)
        one()
        if len(attempts) == 1:
            raise OSError("the network")

    body()
    assert told == ["one", "commit one"] * 2


def test_the_parent_that_fails_undoes_what_its_sub_flows_did(told: Told, step: Any) -> None:
    one, two = step("one"), step("two")

    @flow
    def inner() -> None:
        two()

    @flow
    def outer() -> None:
        one()
        inner()
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        outer()
    assert told == ["one", "commit one", "two", "commit two", "undo two", "undo one"]


def test_a_sub_flow_that_fails_undoes_only_its_own(told: Told, step: Any) -> None:
    one, two = step("one"), step("two")

    @flow
    def inner() -> None:
        two()
        raise ValueError("no luck")

    @flow
    def outer() -> None:
        one()
        assert inner(return_state=True).is_failed()

    outer()
    assert told == ["one", "commit one", "two", "commit two", "undo two"]


def test_what_was_committed_in_a_block_stays_when_the_flow_fails(told: Told, step: Any) -> None:
    one = step("one")

    @flow
    def body() -> None:
        with transaction():
            one()
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        body()
    assert told == ["one", "commit one"]


def test_the_example_of_a_file_that_is_not_to_stay(tmp_path: pathlib.Path, runner: str) -> None:
    @task
    def write_file(path: pathlib.Path, text: str) -> None:
        path.write_text(text)

    @write_file.on_rollback
    def delete_file(txn: Transaction) -> None:
        pathlib.Path(txn.get("path")).unlink()

    @task
    def check(path: pathlib.Path) -> None:
        if len(path.read_text().splitlines()) < 2:
            raise ValueError("not enough data")

    @flow(task_runner=runner)
    def pipeline(text: str) -> None:
        path = tmp_path / "side-effect.txt"
        with transaction() as txn:
            txn.set("path", path)
            write_file.submit(path, text).result()
            check.submit(path).result()

    with pytest.raises(ValueError, match="not enough data"):
        pipeline("one line")
    assert list(tmp_path.iterdir()) == []
    pipeline("two\nlines")
    assert [path.name for path in tmp_path.iterdir()] == ["side-effect.txt"]
