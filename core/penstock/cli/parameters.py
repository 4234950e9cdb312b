"""Flow parameters on the command line: what there is to give, and values from words.

Text becomes the nearest thing that JSON or a flag can say; the rest of the way, from `"3"` to 3
or from `"2026-01-05"` to a date, is the flow's own check of its parameters.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import inspect
import json
import pathlib
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any, Literal

from penstock.cli.errors import UsageError
from penstock.exceptions import ParameterTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.flows import Flow

__all__ = ["Parameter", "call_arguments", "flow_parameters", "takes_more"]

NOTHING = inspect.Parameter.empty

_LISTS = frozenset(
    {
        list,
        set,
        frozenset,
        tuple,
        collections.abc.Collection,
        collections.abc.Iterable,
        collections.abc.Sequence,
        collections.abc.Set,
    }
)
_SCALARS = (
    int,
    float,
    complex,
    bytes,
    decimal.Decimal,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    pathlib.PurePath,
    uuid.UUID,
    type(None),
)
_FLAG_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a flow, as the command line has it."""

    name: str
    annotation: Any
    """`NOTHING` where the function does not say and its default does not tell."""
    default: Any
    is_checked: bool
    """Whether the flow coerces values by the annotation; else it is taken from the default."""

    @property
    def option(self) -> str:
        """The word that gives it: `--from` for `from_`."""
        return f"--{(self.name.strip('_') or self.name).replace('_', '-')}"

    @property
    def is_required(self) -> bool:
        """Whether the flow cannot be called without it."""
        return self.default is NOTHING

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value: `--flag` and `--no-flag`."""
        return bool in self.kinds()

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times."""
        return any(typing.get_origin(kind) in _LISTS or kind in _LISTS for kind in self.kinds())

    def kinds(self) -> tuple[Any, ...]:
        """Return the types it may have: the members of a union, or its only type."""
        return tuple(_members(self.annotation))

    def choices(self) -> dict[str, Any]:
        """Return the values it may have by how they are spelled; empty if they are not counted."""
        found: dict[str, Any] = {}
        for kind in self.kinds():
            if typing.get_origin(kind) is Literal:
                found.update({str(value): value for value in typing.get_args(kind)})
            elif isinstance(kind, type) and issubclass(kind, enum.Enum):
                # The spelling to show comes first: a text, not the number it may stand for.
                texts = {member.value: member for member in kind if isinstance(member.value, str)}
                values = {str(member.value): member for member in kind}
                found.update({**texts, **kind.__members__, **values})
            elif kind is not type(None):
                return {}
        return found

    def value_of(self, text: str) -> Any:
        """Return the value that a word means.

        Raises:
            UsageError: it must be JSON, or a number, and is not.
        """
        kinds, choices = self.kinds(), self.choices()
        if text in choices:
            return choices[text]
        if str in kinds or not kinds:
            return text
        if type(None) in kinds and text in ("none", "None", "null"):
            return None
        if self.is_flag:
            return self._flag_value(text)
        if all(isinstance(kind, type) and issubclass(kind, _SCALARS) for kind in kinds):
            return text if self.is_checked else self._as_default(text)
        if choices or (self.is_list and not text.startswith("[")):
            return text
        must_be_json = any(map(_is_structured, kinds))
        if not must_be_json and not text.startswith(("[", "{")):
            return text
        try:
            return json.loads(text)
        except ValueError as error:
            if not must_be_json:
                return text  # a type of the user's may take a word
            raise UsageError(
                f"{self.option} takes JSON, such as {self._example()}, not {text!r}: {error}"
            ) from error

    def _flag_value(self, text: str) -> bool:
        if text.lower() not in _FLAG_WORDS:
            raise UsageError(f"{self.option}={text}: it is {self.option} or --no-{self.option[2:]}")
        return _FLAG_WORDS[text.lower()]

    def _as_default(self, text: str) -> Any:
        kind = type(self.default)
        try:
            return kind(text)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UsageError(
                f"{self.option} takes the like of its default, {self.default!r}, not {text!r}"
            ) from error

    def _example(self) -> str:
        return '\'["a", "b"]\'' if self.is_list else '\'{"key": "value"}\''


def _members(annotation: Any) -> typing.Iterator[Any]:
    if annotation is NOTHING or annotation is Any:
        return
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _members(member)
    elif hasattr(annotation, "__supertype__"):  # a NewType
        yield from _members(annotation.__supertype__)
    elif hasattr(annotation, "__value__"):  # `type Name = ...`, from Python 3.12
        yield from _members(annotation.__value__)
    else:
        yield type(None) if annotation is None else annotation


def _is_structured(kind: Any) -> bool:
    """Whether a type is one that JSON's lists and objects become."""
    origin = typing.get_origin(kind) or kind
    if origin in _LISTS or dataclasses.is_dataclass(origin) or typing.is_typeddict(origin):
        return True
    return isinstance(origin, type) and (
        issubclass(origin, collections.abc.Mapping) or hasattr(origin, "model_validate")
    )


def flow_parameters(flow: Flow[..., Any]) -> dict[str, Parameter]:
    """Return what can be given to a flow, by name; not `*args` and `**kwargs`."""
    try:
        annotations = {
            name: each.annotation
            for name, each in inspect.signature(flow.fn, eval_str=True).parameters.items()
        }
    except Exception:  # noqa: BLE001  (names that exist for the type checker only)
        annotations = {}
    found: dict[str, Parameter] = {}
    for name, each in flow.signature.parameters.items():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        annotation, is_checked = annotations.get(name, NOTHING), True
        if annotation is NOTHING and each.default is not NOTHING and each.default is not None:
            annotation, is_checked = type(each.default), False
        found[name] = Parameter(name, annotation, each.default, is_checked)
    return found


def takes_more(flow: Flow[..., Any]) -> bool:
    """Whether the flow has `**kwargs`, so that any name is good."""
    return any(each.kind is each.VAR_KEYWORD for each in flow.signature.parameters.values())


def call_arguments(
    flow: Flow[..., Any], words: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of the call that the words of a command line ask for.

    Args:
        flow: whose parameters they are.
        words: such as `["--day", "2026-01-05", "--no-cache"]`.

    Raises:
        UsageError: a word means nothing, a parameter is missing or does not fit.
    """
    known = flow_parameters(flow)
    values = _values(_given(words, known, accepts_more=takes_more(flow)), known)
    missing = [
        each.option for name, each in known.items() if each.is_required and name not in values
    ]
    if missing:
        raise UsageError(f"flow {flow.name!r} needs {' and '.join(missing)}")
    try:
        checked = flow.validate_parameters(values)
    except ParameterTypeError as error:
        raise UsageError(str(error)) from error
    # What is positional only stands at the front: once one is left to its default, so are the
    # others behind it, unless they are given, and then the default has to be said.
    positional: list[Any] = []
    for name, each in flow.signature.parameters.items():
        if each.kind is each.POSITIONAL_ONLY:
            positional.append(checked.pop(name, each.default))
    return tuple(positional), checked


def _given(
    words: Sequence[str], known: Mapping[str, Parameter], *, accepts_more: bool
) -> dict[str, list[str | bool]]:
    """Sort words by the parameter they are for."""
    given: dict[str, list[str | bool]] = {}
    by_word = {each.option[2:].replace("-", "_"): each for each in known.values()} | dict(known)
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--") or word == "--":
            raise UsageError(f"{word!r} belongs to nothing; parameters are given as --name value")
        option, equals, text = word[2:].partition("=")
        name = option.replace("-", "_")
        parameter, negated = by_word.get(name), by_word.get(name.removeprefix("no_"))
        value: str | bool = text
        if parameter is None and negated is not None and negated.is_flag:
            if equals:
                raise UsageError(f"--{option} takes no value")
            parameter, value = negated, False
        elif parameter is None and not accepts_more:
            raise UsageError(f"there is no parameter --{option}")
        elif not equals and parameter is not None and parameter.is_flag:
            value = True
        elif not equals:
            if not left or left[0].startswith("--"):
                raise UsageError(f"--{option} needs a value: --{option} VALUE or --{option}=VALUE")
            value = left.pop(0)
        given.setdefault(name if parameter is None else parameter.name, []).append(value)
    return given


def _values(
    given: Mapping[str, list[str | bool]], known: Mapping[str, Parameter]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, words in given.items():
        parameter = known.get(name, Parameter(name, NOTHING, NOTHING, is_checked=False))
        parts = [word if isinstance(word, bool) else parameter.value_of(word) for word in words]
        wants_list = parameter.is_list and str not in parameter.kinds()
        if len(parts) == 1 and not (wants_list and isinstance(parts[0], str)):
            values[name] = parts[0]
        elif parameter.is_list:
            items = [
                item for part in parts for item in (part if isinstance(part, list) else [part])
            ]
            values[name] = items if parameter.is_checked else type(parameter.default)(items)
        elif parameter.is_flag:
            values[name] = parts[-1]  # the last word counts, so that an alias can be overruled
        else:
            raise UsageError(f"{parameter.option} is given {len(parts)} times")
    return values
