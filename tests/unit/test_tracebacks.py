"""Tracebacks show the user's frames, those of the chain too, and leave the exception alone."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penstock
from penstock.tracebacks import format_user_traceback, user_frames
from penstock.worker.calling import call

if TYPE_CHECKING:
    from collections.abc import Callable

WORKER = str(Path("penstock", "worker", "calling.py"))


def boom() -> None:
    raise ValueError("no such url")


def boom_through_the_engine() -> None:
    call(boom, (), {})


def raised_by(fn: Callable[[], Any]) -> BaseException:
    """What `fn` raises when the engine calls it."""
    try:
        call(fn, (), {})
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_seed_111_the_engines_frames_are_left_out() -> None:
    error = raised_by(boom_through_the_engine)
    assert WORKER in "".join(traceback.format_exception(error))
    text = format_user_traceback(error)
    assert WORKER not in text
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in boom_through_the_engine\n    call(boom, (), {})" in text
    assert text.endswith('in boom\n    raise ValueError("no such url")\nValueError: no such url')


def test_frames_are_the_users_outermost_first() -> None:
    frames = user_frames(raised_by(boom_through_the_engine))
    assert [frame.name for frame in frames] == ["raised_by", "boom_through_the_engine", "boom"]


def test_causes_and_contexts_are_trimmed_as_well() -> None:
    def with_cause() -> None:
        try:
            call(boom, (), {})
        except ValueError as error:
            raise KeyError("cause") from error

    def with_context() -> None:
        try:
            call(with_cause, (), {})
        except KeyError:
            raise IndexError("context")  # noqa: B904  (the implicit chain is the subject)

    text = format_user_traceback(raised_by(with_context))
    assert WORKER not in text
    assert "The above exception was the direct cause of the following exception:" in text
    assert "During handling of the above exception, another exception occurred:" in text
    assert text.index("no such url") < text.index("'cause'") < text.index("IndexError")


def test_a_context_that_was_suppressed_stays_so() -> None:
    def suppressing() -> None:
        try:
            boom()
        except ValueError:
            raise KeyError("shown") from None

    assert "no such url" not in format_user_traceback(raised_by(suppressing))


def test_groups_and_notes_are_shown_and_trimmed() -> None:
    def grouped() -> None:
        try:
            call(boom, (), {})
        except ValueError as error:
            error.add_note("while fetching page 3")
            raise ExceptionGroup("pages", [error, KeyError("other")]) from None

    text = format_user_traceback(raised_by(grouped))
    assert WORKER not in text
    assert "pages (2 sub-exceptions)" in text
    assert "while fetching page 3" in text
    assert "KeyError: 'other'" in text


def test_an_error_of_our_own_keeps_all_its_frames() -> None:
    error = raised_by(boom)
    # As if the user's part had never been entered: leave the engine's frames only.
    here: Any = error.__traceback__
    inner = here.tb_next
    own = ValueError("a bug of ours").with_traceback(
        type(inner)(None, inner.tb_frame, inner.tb_lasti, inner.tb_lineno)
    )
    assert [Path(frame.filename).name for frame in user_frames(own)] == ["calling.py"]
    assert "calling.py" in format_user_traceback(own)


def test_an_exception_never_raised_has_only_its_line() -> None:
    error = ValueError("never raised")
    assert list(user_frames(error)) == []
    assert format_user_traceback(error).endswith("ValueError: never raised")


def test_the_exception_is_left_as_it_was() -> None:
    error = raised_by(boom_through_the_engine)
    before = (error.__traceback__, "".join(traceback.format_exception(error)))
    format_user_traceback(error)
    user_frames(error)
    assert (error.__traceback__, "".join(traceback.format_exception(error))) == before


def test_a_users_package_with_a_name_like_ours_is_the_users(tmp_path: Path) -> None:
    (own,) = penstock.__path__
    code = compile("def f():\n    1 / 0\n", f"{own}_plugins/tasks.py", "exec")
    space: dict[str, Any] = {}
    exec(code, space)
    assert "penstock_plugins" in format_user_traceback(raised_by(space["f"]))


def test_an_exception_whose_text_fails_is_still_shown() -> None:
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def raising() -> None:
        raise Bad

    assert "Bad: <exception str() failed>" in format_user_traceback(raised_by(raising))


def test_a_long_chain_is_no_problem() -> None:
    error: BaseException | None = None
    for number in range(3000):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    assert error is not None
    assert format_user_traceback(error).count("direct cause") == 2999
