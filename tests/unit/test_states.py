"""Promises of `penstock.states`: the table of moves, `advance`, and what a state says."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pytest

from penstock.exceptions import CancelledRun, CrashedRun, FailedRun, IllegalMove, UnfinishedRun
from penstock.states import (
    LEGAL_MOVES,
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Retrying,
    Running,
    Scheduled,
    State,
    StateType,
    Success,
    TimedOut,
    TriggerFailed,
    UpstreamFailed,
    advance,
    is_legal,
)

ENDS = "COMPLETED FAILED CRASHED CANCELLED"
# Written out again on purpose: a change of the table has to be made, and meant, twice.
MOVES = {
    "SCHEDULED": f"PENDING RUNNING CANCELLING {ENDS}",
    "PENDING": f"SCHEDULED RUNNING PAUSED CANCELLING {ENDS}",
    "RUNNING": f"RUNNING SCHEDULED PAUSED CANCELLING {ENDS}",
    "PAUSED": f"RUNNING CANCELLING {ENDS}",
    "CANCELLING": ENDS,
    # Its result was lost with the worker that kept it; its transaction was rolled back.
    "COMPLETED": "SCHEDULED COMPLETED",
    "FAILED": "",
    "CRASHED": "",
    "CANCELLED": "",
}
AFTER_PROVISIONAL = f"SCHEDULED RUNNING CANCELLING {ENDS}"
PAIRS = list(itertools.product(StateType, StateType))

NAMED = {
    "Pending": (Pending(), "is_pending"),
    "Running": (Running(), "is_running"),
    "Retrying": (Retrying(), "is_running"),
    "Completed": (Completed(1), "is_completed"),
    "Failed": (Failed(), "is_failed"),
    "TimedOut": (TimedOut(), "is_failed"),
    "UpstreamFailed": (UpstreamFailed(), "is_failed"),
    "Crashed": (Crashed(), "is_crashed"),
    "Cancelled": (Cancelled(), "is_cancelled"),
    "Cancelling": (Cancelling(), "is_cancelling"),
    "Paused": (Paused(), "is_paused"),
    "Scheduled": (Scheduled(), "is_scheduled"),
    "AwaitingRetry": (AwaitingRetry(), "is_scheduled"),
}
QUESTIONS = sorted({question for _, question in NAMED.values()})
FINAL = {"Completed", "Failed", "TimedOut", "UpstreamFailed", "Crashed", "Cancelled"}


def provisional(kind: str, error: Exception | None = None) -> State[Any]:
    """The failure of one attempt, with another to come."""
    return State(StateType(kind), data=error, provisional=True)


class Record:
    """The least that `advance` moves."""

    def __init__(self, *states: State[Any]) -> None:
        self.states = list(states)

    @property
    def state(self) -> State[Any]:
        return self.states[-1]

    def move_to(self, state: State[Any]) -> None:
        self.states.append(state)

    def __repr__(self) -> str:
        return "<TaskRun 'fetch-0'>"


# --- the table --------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda each: each.value)
def test_a_move_is_legal_exactly_as_the_table_says(old: StateType, new: StateType) -> None:
    assert is_legal(State(old), State(new)) == (new.value in MOVES[old.value].split())


@pytest.mark.parametrize("new", StateType, ids=lambda each: each.value)
@pytest.mark.parametrize("old", ["FAILED", "CRASHED"])
def test_from_the_failure_of_one_attempt_a_run_goes_on(old: str, new: StateType) -> None:
    assert is_legal(provisional(old), State(new)) == (new.value in AFTER_PROVISIONAL.split())


def test_the_table_has_no_row_for_what_has_ended() -> None:
    assert set(LEGAL_MOVES) == {StateType(old) for old, new in MOVES.items() if new}


# --- advance ----------------------------------------------------------------------------


def test_advance_sets_the_state_and_keeps_the_history() -> None:
    record = Record(Pending())
    entered = advance(record, Running(), 5.0)
    assert record.state is entered
    assert [state.name for state in record.states] == ["Pending", "Running"]


def test_advance_stamps_the_state_with_the_time() -> None:
    entered = advance(Record(Pending()), Running(), 5.0)
    assert entered.timestamp == datetime.datetime.fromtimestamp(5.0, datetime.UTC)


def test_a_state_that_was_entered_before_is_copied() -> None:
    constant: State[int] = Completed(7)
    first = advance(Record(Running()), constant, 5.0)
    second = advance(Record(Running()), constant, 6.0)
    assert (first.at, second.at, second.data) == (5.0, 6.0, 7)


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda each: each.value)
def test_advance_leaves_the_run_alone_when_the_move_is_illegal(
    old: StateType, new: StateType
) -> None:
    record = Record(State(old))
    if new.value in MOVES[old.value].split():
        advance(record, State(new), 5.0)
        assert record.state.type is new
    else:
        with pytest.raises(IllegalMove):
            advance(record, State(new), 5.0)
        assert (record.state.type, len(record.states)) == (old, 1)


def test_an_illegal_move_names_the_run_the_states_and_the_alternatives() -> None:
    with pytest.raises(IllegalMove) as caught:
        advance(Record(Paused()), Scheduled(), 5.0)
    text = str(caught.value)
    assert "'fetch-0'" in text
    assert "from Paused() to Scheduled()" in text
    assert "CANCELLED, CANCELLING, COMPLETED, CRASHED, FAILED, RUNNING" in text


def test_an_illegal_move_from_a_final_state_says_that_the_run_has_ended() -> None:
    with pytest.raises(IllegalMove, match="nowhere, it has ended"):
        advance(Record(Failed("x")), Running(), 5.0)


def test_an_illegal_move_from_a_provisional_state_names_its_own_alternatives() -> None:
    with pytest.raises(IllegalMove, match="CRASHED, FAILED, RUNNING, SCHEDULED"):
        advance(Record(provisional("FAILED")), Paused(), 5.0)


# --- what a state says ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (Completed(1), "Completed()"),
        (Completed(None, "All states completed."), "Completed('All states completed.')"),
        (Completed(1, name="Cached"), "Cached(type=COMPLETED)"),
        (Completed(1, "x", "Skipped"), "Skipped('x', type=COMPLETED)"),
        (Failed("1/3 states failed."), "Failed('1/3 states failed.')"),
        (Failed("it's"), 'Failed("it\'s")'),
        (TimedOut("too long"), "TimedOut('too long', type=FAILED)"),
        (UpstreamFailed(), "UpstreamFailed(type=FAILED)"),
        (Retrying(), "Retrying(type=RUNNING)"),
        (AwaitingRetry(), "AwaitingRetry(type=SCHEDULED)"),
        (Crashed(""), "Crashed()"),
    ],
    ids=str,
)
def test_seed_033_a_state_reads_as_name_message_and_type_where_they_say_something(
    state: State[Any], text: str
) -> None:
    assert (str(state), repr(state), f"{state}") == (text, text, text)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", NAMED)
def test_each_state_answers_yes_to_the_question_of_its_type_only(name: str, question: str) -> None:
    state, answers_to = NAMED[name]
    assert getattr(state, question)() == (question == answers_to)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_state_has_its_name(name: str) -> None:
    assert NAMED[name][0].name == name


@pytest.mark.parametrize("name", NAMED)
def test_only_the_four_ends_are_final(name: str) -> None:
    state = NAMED[name][0]
    assert state.is_final() == state.is_finished() == (name in FINAL)


@pytest.mark.parametrize("name", NAMED)
def test_seed_186_retrying_is_waiting_for_an_attempt_or_making_it(name: str) -> None:
    assert NAMED[name][0].is_retrying() == (name in {"Retrying", "AwaitingRetry"})


def test_seed_132_and_d5_names_of_prefect_1_give_the_states_of_today() -> None:
    assert (Success(3).type, Success(3).name) == (StateType.COMPLETED, "Completed")
    assert (TriggerFailed().type, TriggerFailed().name) == (StateType.FAILED, "UpstreamFailed")


@pytest.mark.parametrize("name", NAMED)
def test_successful_is_completed(name: str) -> None:
    assert NAMED[name][0].is_successful() == (name == "Completed")


@pytest.mark.parametrize("kind", ["FAILED", "CRASHED"])
def test_the_failure_of_one_attempt_is_not_final(kind: str) -> None:
    assert not provisional(kind).is_final()


def test_a_state_without_a_name_has_that_of_its_type() -> None:
    for kind in StateType:
        state: State[Any] = State(kind)
        assert state.name.upper() == kind.value


def test_seed_187_the_scheduled_time_is_aware_and_in_utc() -> None:
    when = datetime.datetime(
        2026, 1, 2, 3, 4, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
    )
    state = AwaitingRetry(when)
    assert state.scheduled_time == state.start_time == when
    assert state.start_time is not None
    assert state.start_time.tzinfo is datetime.UTC


def test_a_state_that_nobody_entered_has_no_time() -> None:
    assert (Running().timestamp, Running().scheduled_time) == (None, None)


def test_a_state_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Running().message = "changed"  # type: ignore[misc]  # the point of the test


# --- its result -------------------------------------------------------------------------


def test_result_called_gives_the_value() -> None:
    assert Completed(3).result() == 3


def test_result_called_raises_the_failure_itself() -> None:
    error = ValueError("no")
    with pytest.raises(ValueError, match="no") as caught:
        Failed(data=error).result()
    assert caught.value is error


def test_result_called_can_return_the_failure() -> None:
    error = ValueError("no")
    assert Failed(data=error).result(raise_on_failure=False) is error


@pytest.mark.parametrize("state", [Pending(), Running(), Scheduled(), Paused(), Cancelling()])
@pytest.mark.parametrize("raise_on_failure", [True, False])
def test_result_of_an_unfinished_run_says_so(state: State[Any], raise_on_failure: bool) -> None:
    with pytest.raises(UnfinishedRun, match="wait for it first"):
        state.result(raise_on_failure=raise_on_failure)


def test_result_of_one_failed_attempt_is_its_failure() -> None:
    error = ValueError("no")
    assert provisional("FAILED", error).exception() is error


class Signal(Exception):
    flag = True


def test_seed_196_result_reads_like_what_is_stored() -> None:
    assert Failed(data=Signal()).result.flag
    assert not getattr(Failed(data=ValueError()).result, "flag", False)


def test_result_can_be_indexed_compared_counted_and_gone_through() -> None:
    state: State[Any] = Completed({"key": 3})
    result = state.result
    assert result["key"] == 3
    assert result == {"key": 3}
    assert result != {"key": 4}
    assert len(result) == 1
    assert list(result) == ["key"]
    assert "key" in result
    assert repr(result) == "{'key': 3}"


def test_result_has_no_hash_as_the_value_may_have_none() -> None:
    with pytest.raises(TypeError):
        hash(Completed(3).result)


# --- its exception ----------------------------------------------------------------------


@pytest.mark.parametrize("state", [Completed(1), Completed(ValueError()), Pending(), Running()])
def test_a_state_that_is_no_failure_has_no_exception(state: State[Any]) -> None:
    assert state.exception() is None


@pytest.mark.parametrize(
    ("state", "kind"),
    [(Failed("why"), FailedRun), (Cancelled("why"), CancelledRun), (Crashed("why"), CrashedRun)],
)
def test_a_failure_without_an_exception_gets_one_that_quotes_the_state(
    state: State[Any], kind: type[Exception]
) -> None:
    error = state.exception()
    assert type(error) is kind
    assert str(state) in str(error)


def test_data_that_is_no_exception_does_not_pass_for_one() -> None:
    assert isinstance(Failed("why", data={"not": "an exception"}).exception(), FailedRun)
