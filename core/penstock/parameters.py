"""Flow parameters, checked and coerced by their annotations."""

from __future__ import annotations

import inspect
import typing
import warnings
from typing import TYPE_CHECKING, Any

from penstock.exceptions import ParameterTypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ParameterCheck"]

_PLAIN = (str, int, float, bool, bytes, list, dict, tuple, set)


class ParameterCheck:
    """Checks the parameters of one function.

    pydantic does it, and is imported only when a value is not already of just the class that its
    annotation names. An annotation that pydantic cannot use, such as the builtin `any`, checks
    nothing.
    """

    def __init__(self, fn: Callable[..., Any], signature: inspect.Signature, name: str) -> None:
        self._fn = fn
        self._signature = signature
        self._name = name
        self._annotations: dict[str, Any] | None = None
        self._adapters: dict[str, Any] = {}

    def arguments(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        parameters: Mapping[str, Any],
        signature: inspect.Signature,
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Return the arguments of a call with the coerced values in place.

        Args:
            args: as the call has them.
            kwargs: as the call has them.
            parameters: the same by name, defaults included.
            signature: of what is called: a bound method has one parameter less.

        Raises:
            ParameterTypeError: a parameter does not fit its annotation.
        """
        checked = self.checked(parameters)
        if all(checked[name] is value for name, value in parameters.items()):
            return args, kwargs
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update(checked)
        return bound.args, bound.kwargs

    def checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters, coerced; see `arguments`."""
        annotations = self._annotations
        if annotations is None:
            annotations = self._annotations = self._read_annotations()
        checked = dict(parameters)
        for name, annotation in annotations.items():
            value = parameters.get(name, inspect.Parameter.empty)
            default = self._signature.parameters[name].default
            if value is default or value is inspect.Parameter.empty:
                continue  # a default is the author's word, whatever the annotation says
            if annotation in _PLAIN and type(value) is annotation:
                continue
            checked[name] = self._coerced(name, annotation, value)
        return checked

    def _read_annotations(self) -> dict[str, Any]:
        try:
            hints = typing.get_type_hints(self._fn, include_extras=True)
        except Exception:  # noqa: BLE001  (names that exist for the type checker only)
            hints = {
                name: annotation
                for name, annotation in getattr(self._fn, "__annotations__", {}).items()
                if not isinstance(annotation, str)
            }
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {
            name: hints[name]
            for name, parameter in self._signature.parameters.items()
            if name in hints and hints[name] is not Any and parameter.kind not in kinds
        }

    def _coerced(self, name: str, annotation: Any, value: Any) -> Any:
        import pydantic

        if name not in self._adapters:
            config = pydantic.ConfigDict(arbitrary_types_allowed=True)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # an odd annotation is no business of the call
                    try:
                        adapter = pydantic.TypeAdapter(annotation, config=config)
                    except pydantic.PydanticUserError:  # a type with a configuration of its own
                        adapter = pydantic.TypeAdapter(annotation)
            except Exception:  # noqa: BLE001  (nothing that pydantic understands: not checked)
                adapter = None
            self._adapters[name] = adapter
        adapter = self._adapters[name]
        if adapter is None:
            return value
        try:
            return adapter.validate_python(value)
        except pydantic.ValidationError as error:
            problems = "; ".join(each["msg"] for each in error.errors())
            raise ParameterTypeError(
                f"flow {self._name!r}, parameter {name!r}: {problems}; got {value!r}. "
                "Give a value that fits the annotation, or set validate_parameters=False."
            ) from error
