"""Promises of `penstock.hooks` (decision D4); numbers are rows of the specification."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.exceptions import HookSignatureError
from penstock.hooks import (
    Hook,
    adapt_hook,
    adapt_retry_condition,
    adapt_state_handler,
    adapt_transaction_hook,
    as_callables,
    finish,
)


@dataclass
class FakeState:
    data: object = None


ERROR = ValueError("as the task raised it")
OLD, NEW = FakeState(), FakeState(ERROR)
GIVEN = {"obj": "OBJ", "run": "RUN", "state": NEW, "old_state": OLD, "exception": ERROR}


def hook_of(fn: object, subject: Literal["task", "flow"] = "flow") -> Hook:
    return adapt_hook(fn, subject=subject, option="on_failure")


def called(fn: object, subject: Literal["task", "flow"] = "flow") -> Any:
    return hook_of(fn, subject)("OBJ", "RUN", NEW, OLD)


def handled(fn: object) -> Any:
    return adapt_state_handler(fn, subject="task")("OBJ", OLD, NEW)


def judged(fn: object) -> Any:
    return adapt_retry_condition(fn)("OBJ", "RUN", NEW)


# --- hooks by the number of their arguments ---------------------------------------------


def test_seed_144_a_hook_of_no_arguments_is_called_with_none() -> None:
    assert called(lambda: "called") == "called"


def test_seed_150_a_hook_of_two_arguments_gets_the_flow_and_its_state() -> None:
    def notify_failure(flow: Any, state: Any) -> Any:
        return flow, state

    assert called(notify_failure) == ("OBJ", NEW)


@pytest.mark.parametrize(
    ("fn", "values"),
    [
        (lambda a: (a,), (NEW,)),
        (lambda a, b: (a, b), ("OBJ", NEW)),
        (lambda a, b, c: (a, b, c), ("OBJ", "RUN", NEW)),
        (lambda *args: args, ("OBJ", "RUN", NEW)),
        (lambda a, *args: (a, *args), ("OBJ", "RUN", NEW)),
        (lambda *args, **kwargs: (args, kwargs), (("OBJ", "RUN", NEW), {})),
        (lambda a, b, verbose=False: (a, b, verbose), ("OBJ", NEW, False)),
        (lambda a, b, /: (a, b), ("OBJ", NEW)),
    ],
)
def test_seed_144_150_unknown_names_are_served_by_their_number(
    fn: Callable[..., Any], values: tuple[Any, ...]
) -> None:
    assert called(fn) == values


# --- hooks by the names of their arguments ----------------------------------------------


@pytest.mark.parametrize("subject", ["task", "flow"])
@pytest.mark.parametrize(
    ("fn", "values"),
    [
        (lambda state, flow: (state, flow), (NEW, "OBJ")),
        (lambda exception: exception, ERROR),
        (lambda run: run, "RUN"),
        (lambda flow_run: flow_run, "RUN"),
        (lambda task, task_run, state: (task, task_run, state), ("OBJ", "RUN", NEW)),
        (lambda obj, tsk: (obj, tsk), ("OBJ", "OBJ")),
        (lambda new_state, old_state: (new_state, old_state), (NEW, OLD)),
        (lambda state, /: state, NEW),
        (lambda *, state, run: (state, run), (NEW, "RUN")),
        (lambda *args, exception: (args, exception), (("OBJ", "RUN", NEW), ERROR)),
        (
            lambda flow, flow_run, state, old_state, exception: (flow, old_state, exception),
            ("OBJ", OLD, ERROR),
        ),
        (lambda x, old_state, new_state: (x, old_state, new_state), ("OBJ", OLD, NEW)),
    ],
)
def test_known_names_get_what_they_say_in_any_order(
    fn: Callable[..., Any], values: Any, subject: Literal["task", "flow"]
) -> None:
    assert called(fn, subject) == values


@pytest.mark.parametrize(
    ("fn", "values"),
    [
        (lambda x, state: (x, state), ("OBJ", NEW)),
        (lambda state, x: (state, x), (NEW, "OBJ")),
        (lambda flow, x, y: (flow, x, y), ("OBJ", "RUN", NEW)),
        (lambda x, y, exception: (x, y, exception), ("OBJ", NEW, ERROR)),
        (lambda x, *, run: (x, run), (NEW, "RUN")),
        (lambda state, *args: (state, args), (NEW, ())),
    ],
)
def test_a_known_name_keeps_its_meaning_among_unknown_ones(
    fn: Callable[..., Any], values: Any
) -> None:
    assert called(fn) == values


@given(st.permutations(["flow", "flow_run", "state", "old_state", "exception"]), st.data())
def test_known_names_are_served_in_every_order_and_number(
    names: list[str], data: st.DataObject
) -> None:
    names = names[: data.draw(st.integers(0, len(names)))]
    fn = eval(f"lambda {', '.join(names)}: [{', '.join(names)}]")
    meaning = {"flow": "obj", "flow_run": "run"}
    assert called(fn) == [GIVEN[meaning.get(name, name)] for name in names]


def test_a_default_gives_way_to_a_known_name_of_the_same_subject_only() -> None:
    def hook(state: Any, flow_run: Any = None, task: Any = "mine", colour: Any = "red") -> Any:
        return state, flow_run, task, colour

    assert called(hook, "flow") == (NEW, "RUN", "mine", "red")
    assert called(hook, "task") == (NEW, None, "OBJ", "red")


def test_a_default_is_left_alone_where_hooks_go_by_number() -> None:
    captured = object()
    assert called(lambda f, r, s, state=captured: state) is captured
    assert called(lambda a, b=1, c=2: (a, b, c)) == (NEW, 1, 2)


def test_free_keywords_get_what_was_not_asked_for_by_name() -> None:
    assert called(lambda **kw: kw, "task") == {"task": "OBJ", "task_run": "RUN", "state": NEW}
    assert called(lambda state, **kw: kw) == {"flow": "OBJ", "flow_run": "RUN"}
    assert called(functools.partial(lambda **kw: kw, flow=1, flow_run=2)) == {
        "flow": 1,
        "flow_run": 2,
        "state": NEW,
    }


def test_the_exception_is_none_when_the_state_carries_none() -> None:
    hook = hook_of(lambda exception: exception)
    assert hook("OBJ", "RUN", FakeState("a result"), OLD) is None
    assert hook("OBJ", "RUN", object(), OLD) is None


# --- every kind of callable -------------------------------------------------------------


class Pager:
    def __init__(self, *values: Any) -> None:
        self.values = values

    def __call__(self, flow: Any, state: Any) -> Any:
        return flow, state

    def page(self, state: Any) -> Any:
        return state

    @classmethod
    def page_all(cls, flow: Any, flow_run: Any, state: Any) -> Any:
        return flow, flow_run, state

    @staticmethod
    def note(exception: Any) -> Any:
        return exception


def post(channel: str, flow: Any, flow_run: Any, state: Any) -> Any:
    return channel, flow, flow_run, state


@functools.wraps(Pager.note)
def through(*args: Any, **kwargs: Any) -> Any:
    return Pager.note(*args, **kwargs)


@functools.wraps(post)
def narrowed(state: Any) -> Any:
    return state


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (Pager(), ("OBJ", NEW)),
        (Pager().page, NEW),
        (Pager.page_all, ("OBJ", "RUN", NEW)),
        (Pager.note, ERROR),
        (functools.partial(post, "#ops"), ("#ops", "OBJ", "RUN", NEW)),
        (functools.partial(post, channel="#ops"), ("#ops", "OBJ", "RUN", NEW)),
        (functools.partial(post, "#ops", state="mine"), ("#ops", "OBJ", "RUN", "mine")),
        (functools.partial(functools.partial(post, "#ops"), "f"), ("#ops", "f", "RUN", NEW)),
        (through, ERROR),
        (narrowed, NEW),
    ],
)
def test_any_kind_of_callable_can_be_a_hook(fn: object, value: Any) -> None:
    assert called(fn) == value


def test_a_class_is_called_as_what_its_constructor_takes() -> None:
    assert called(Pager).values == ("OBJ", "RUN", NEW)


def test_print_is_a_hook(capsys: pytest.CaptureFixture[str]) -> None:
    hook_of(print)("the flow", "its run", "Failed()", None)
    assert capsys.readouterr().out == "the flow its run Failed()\n"


def test_a_bound_append_collects_states() -> None:
    seen: list[Any] = []
    called(seen.append)
    assert seen == [NEW]


def test_a_mock_is_a_hook_and_gets_all_three() -> None:
    mock = Mock()
    called(mock)
    mock.assert_called_once_with("OBJ", "RUN", NEW)


def test_a_callable_that_hides_its_signature_gets_all_three() -> None:
    class Closed:
        __signature__ = "none of your business"

        def __call__(self, *args: Any) -> Any:
            return args

    assert called(Closed()) == ("OBJ", "RUN", NEW)
    assert judged(Closed()) == ("OBJ", "RUN", NEW)
    assert handled(Closed()) == ("OBJ", OLD, NEW)
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(min)
    assert hook_of(min)(3, 2, 5, None) == 2


def test_an_adapted_callable_answers_for_the_users_function() -> None:
    adapted: Any
    for adapted in (
        hook_of(post.__get__("#ops")),
        hook_of(functools.partial(post, "#ops")),
        adapt_retry_condition(functools.partial(post, "#ops")),
    ):
        assert adapted.__name__ == "post"
    handler: Any = adapt_state_handler(needs_three, subject="flow")
    assert handler.__name__ == "needs_three"
    assert handler.__wrapped__ is needs_three
    assert hook_of(Pager()).__name__ == "Pager"


def test_adapting_twice_changes_nothing() -> None:
    assert called(hook_of(lambda exception: exception)) is ERROR
    assert handled(adapt_state_handler(lambda a, b, c: (a, b, c), subject="task")) == (
        "OBJ",
        OLD,
        NEW,
    )
    assert judged(adapt_retry_condition(lambda state: state)) is NEW


# --- what is refused --------------------------------------------------------------------


def needs_three(a: Any, b: Any, c: Any) -> None:
    pass


def needs_four(a: Any, b: Any, c: Any, d: Any) -> None:
    pass


def needs_four_and_more(a: Any, b: Any, c: Any, d: Any, *rest: Any) -> None:
    pass


def needs_two_beside_the_flow_and_the_run(flow: Any, flow_run: Any, a: Any, b: Any) -> None:
    pass


def needs_a_channel(state: Any, *, channel: str) -> None:
    pass


@pytest.mark.parametrize(
    "fn",
    [
        needs_four,
        needs_four_and_more,
        needs_two_beside_the_flow_and_the_run,
        needs_a_channel,
        functools.partial(needs_a_channel, state=1),
    ],
)
@pytest.mark.parametrize("adapt", [hook_of, adapt_retry_condition])
def test_a_callback_that_can_never_be_called_is_refused_at_definition(
    adapt: Callable[[object], Any], fn: Callable[..., Any]
) -> None:
    with pytest.raises(HookSignatureError, match="asks for arguments that nobody passes"):
        adapt(fn)


def test_a_hook_of_a_transaction_takes_the_transaction_or_nothing() -> None:
    taken: list[Any] = []
    adapt_transaction_hook(taken.append, option="on_commit")("txn")
    adapt_transaction_hook(lambda: taken.append("nothing"), option="on_commit")("txn")
    adapt_transaction_hook(lambda txn, step=7: taken.append(step), option="on_commit")("txn")
    assert taken == ["txn", "nothing", 7]
    with pytest.raises(HookSignatureError, match="It may take the transaction, or nothing"):
        adapt_transaction_hook(lambda task, run: None, option="on_commit")
    with pytest.raises(HookSignatureError, match="on_commit takes functions"):
        adapt_transaction_hook(5, option="on_commit")


def test_a_refusal_says_what_was_given_and_what_may_be_taken() -> None:
    with pytest.raises(HookSignatureError) as caught:
        adapt_hook(lambda *, channel: channel, subject="task", option="on_crashed")
    assert str(caught.value) == (
        "on_crashed of a task: <lambda>(*, channel) asks for arguments that nobody passes. "
        "A hook may take, by position: (), (state), (task, state), (task, task_run, state); "
        "or, by name: task, task_run, state, old_state, exception."
    )


@pytest.mark.parametrize("wrong", [None, "post", 5, [post], staticmethod])
def test_what_is_not_callable_is_refused_at_definition(wrong: object) -> None:
    if wrong is staticmethod:
        wrong = property(lambda self: None)
    for adapt in (hook_of, adapt_retry_condition, handled):
        with pytest.raises(HookSignatureError, match="cannot be called"):
            adapt(wrong)


# --- state handlers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "values"),
    [
        (lambda obj, old_state, new_state: (obj, old_state, new_state), ("OBJ", OLD, NEW)),
        (lambda task, old_state, new_state: (task, old_state, new_state), ("OBJ", OLD, NEW)),
        (lambda a, b, c: (a, b, c), ("OBJ", OLD, NEW)),
        (lambda a, b, c, verbose=False: (a, b, c, verbose), ("OBJ", OLD, NEW, False)),
        (lambda a, b=None, c=None: (a, b, c), ("OBJ", OLD, NEW)),
        (lambda a=None, b=None, c=None: (a, b, c), ("OBJ", OLD, NEW)),
        (lambda flow, old, new: (flow, old, new), ("OBJ", OLD, NEW)),
        (lambda t, old_state, new_state: (t, old_state, new_state), ("OBJ", OLD, NEW)),
        (lambda new_state, old_state: (new_state, old_state), (NEW, OLD)),
        (lambda new_state: new_state, NEW),
        (lambda *, new_state: new_state, NEW),
        (lambda new_state=None: new_state, NEW),
        (lambda *args: args, ("OBJ", OLD, NEW)),
        (lambda **kw: kw, {"task": "OBJ", "old_state": OLD, "new_state": NEW}),
        (Mock(return_value=1), 1),
    ],
)
def test_seed_168_169_170_a_state_handler_takes_three_values_by_name_or_position(
    fn: Callable[..., Any], values: Any
) -> None:
    assert handled(fn) == values


def test_seed_171_172_a_state_handlers_answer_comes_back() -> None:
    assert handled(lambda obj, old_state, new_state: None) is None
    assert handled(lambda obj, old_state, new_state: "Failed()") == "Failed()"


@pytest.mark.parametrize(
    "fn",
    [
        lambda: None,
        lambda a: None,
        lambda a, b: None,
        lambda a, new_state: None,
        lambda a, b, c, d: None,
        lambda obj, old_state, new_state, why: None,
        lambda task, task_run, state: None,
        lambda a, b, exception: None,
        lambda run, *args: None,
        lambda a, b, c, *, why: None,
        [].append,
    ],
)
def test_seed_168_a_state_handler_of_other_arguments_is_refused(fn: object) -> None:
    with pytest.raises(HookSignatureError, match="state_handlers of a task") as caught:
        adapt_state_handler(fn, subject="task")
    assert "by position: (task, old_state, new_state)" in str(caught.value)


# --- retry conditions -------------------------------------------------------------------


class OnlyValueErrors:
    def __call__(self, task: Any, task_run: Any, state: Any) -> bool:
        return isinstance(state.data, ValueError)


@pytest.mark.parametrize(
    "fn",
    [
        lambda task, task_run, state: (task, task_run, state) == ("OBJ", "RUN", NEW),
        lambda a, b, c: (a, b, c) == ("OBJ", "RUN", NEW),
        lambda a, b: (a, b) == ("OBJ", NEW),
        lambda a: a is NEW,
        lambda: True,
        lambda exception: exception is ERROR,
        lambda *args: args == ("OBJ", "RUN", NEW),
        OnlyValueErrors(),
        functools.partial(lambda kind, state: isinstance(state.data, kind), ValueError),
    ],
)
def test_seed_116_a_retry_condition_is_any_callable_of_up_to_three_arguments(
    fn: object,
) -> None:
    assert judged(fn) is True


@pytest.mark.parametrize("fn", [lambda old_state: True, lambda task, old_state, state: True])
def test_a_retry_condition_that_asks_for_the_state_before_is_refused(fn: object) -> None:
    with pytest.raises(HookSignatureError, match="retry_condition_fn of a task"):
        judged(fn)


async def always(state: Any) -> bool:
    return state is NEW


class AsyncCondition:
    async def __call__(self, task: Any, task_run: Any, state: Any) -> bool:
        return state is NEW


@pytest.mark.parametrize(
    "fn", [always, AsyncCondition(), functools.partial(always), lambda s: always(s)]
)
def test_seed_116_a_retry_condition_may_be_any_async_callable(fn: object) -> None:
    assert finish(judged(fn)) is True


def test_seed_118_a_conditions_own_exception_comes_through_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        judged(lambda: 1 / 0)


# --- one or several ---------------------------------------------------------------------


def test_seed_174_206_an_option_takes_none_one_or_several() -> None:
    def one() -> None: ...
    def two() -> None: ...

    assert as_callables(None, "on_failure") == ()
    assert as_callables(one, "on_failure") == (one,)
    for several in ([one, two], (one, two), iter([one, two]), dict.fromkeys([one, two])):
        assert as_callables(several, "on_failure") == (one, two)


@pytest.mark.parametrize("wrong", ["notify", "", 5, ["notify"], [post, None], {"a": post}])
def test_seed_174_an_option_of_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(HookSignatureError, match="on_failure takes a function or a list"):
        as_callables(wrong, "on_failure")


# --- async hooks ------------------------------------------------------------------------

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


async def ask(thread_names: list[str]) -> str:
    await asyncio.sleep(0)
    thread_names.append(threading.current_thread().name)
    return WHO.get()


class Eventually:
    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return "at last"


def test_finish_returns_plain_values_as_they_are() -> None:
    value = object()
    assert finish(value) is value


def test_finish_runs_in_this_thread_when_no_loop_does() -> None:
    threads: list[str] = []
    token = WHO.set("me")
    assert finish(ask(threads)) == "me"
    WHO.reset(token)
    assert threads == [threading.current_thread().name]


def test_finish_runs_beside_a_running_loop_and_sees_its_context() -> None:
    threads: list[str] = []

    async def main() -> Any:
        WHO.set("main")
        return finish(ask(threads))

    before = threading.active_count()
    assert asyncio.run(main()) == "main"
    assert threads != [threading.current_thread().name]
    assert threading.active_count() == before


def test_finish_takes_every_awaitable() -> None:
    async def main() -> Any:
        return finish(Eventually())

    assert finish(Eventually()) == "at last"
    assert asyncio.run(main()) == "at last"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_finish_raises_what_was_raised_with_its_traceback(error: BaseException) -> None:
    async def fails() -> None:
        raise error

    async def main() -> None:
        finish(fails())

    start: Callable[[], Any]
    for start in (lambda: finish(fails()), lambda: asyncio.run(main())):
        with pytest.raises(type(error)) as caught:
            start()
        assert caught.value is error
        assert "fails" in [entry.name for entry in caught.traceback]


def test_an_async_hook_gives_back_its_awaitable() -> None:
    async def hook(flow: Any, exception: Any) -> Any:
        return flow, exception

    pending = called(hook)
    assert isinstance(pending, Awaitable)
    assert finish(pending) == ("OBJ", ERROR)
