"""What a cache key was made of, in words and digests; and how two of them differ.

A part has a name, by which it is compared, a digest, which says whether it is the same, and a
short text for people. The names begin with what the part is: ``input lr``, ``helper clean()``,
``constant LIMIT``, ``flow parameter day``, ``source``, ``policy``…
"""

from __future__ import annotations

import re
import reprlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["KeyPart", "KeyParts", "cut", "explain", "short_text", "without_addresses"]

_LONGEST = 80


class KeyPart(NamedTuple):
    """One part of a key."""

    digest: str
    text: str = ""


class KeyParts(NamedTuple):
    """A cache key and what it was made of, by name and in order."""

    key: str
    parts: Mapping[str, KeyPart]

    def as_json(self) -> dict[str, Any]:
        """Return it as what `json.dumps` takes; `from_json` reads it back."""
        return {"key": self.key, "parts": {name: [*part] for name, part in self.parts.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> KeyParts:
        """Read what `as_json` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            parts = {str(name): KeyPart(*map(str, part)) for name, part in stored["parts"].items()}
            return cls(str(stored["key"]), MappingProxyType(parts))
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"these are no parts of a cache key: {error}") from error


# --- how two keys differ ----------------------------------------------------------------

_POLICY, _REACH = "policy", "reach"
_QUOTED = ("input", "flow parameter")
_PLAIN = {
    "source": "source of the task changed",
    "run": "another run (RUN_ID is part of the policy)",
    _REACH: "how the task's functions refer to each other changed",
}


def explain(old: KeyParts, new: KeyParts) -> list[str]:
    """Say in sentences what makes two keys differ; nothing if they are the same.

    Parts that only the one policy looks at are not listed: that the policy changed says it.
    """
    if old.key == new.key:
        return []
    found = [*_sentences(old.parts, new.parts)]
    if not found and _differs(_REACH, old.parts, new.parts):
        found.append(_PLAIN[_REACH])
    return found or ["the key changed, in no part that was noted"]


def _sentences(old: Mapping[str, KeyPart], new: Mapping[str, KeyPart]) -> Iterator[str]:
    same_policy = not _differs(_POLICY, old, new)
    for name, part in new.items():
        if name == _REACH:
            continue
        if name not in old:
            if same_policy:
                yield f"{_called(name)} is new{f': {part.text}' if _has_value(name) else ''}"
        elif _differs(name, old, new):
            yield _PLAIN.get(name) or _changed(name, old[name].text, part.text)
    for name in old:
        if name not in new and name != _REACH and same_policy:
            yield f"{_called(name)} is gone"


def _differs(name: str, old: Mapping[str, KeyPart], new: Mapping[str, KeyPart]) -> bool:
    return name in old and name in new and old[name].digest != new[name].digest


def _has_value(name: str) -> bool:
    return not name.startswith(("helper ", "class ", *_PLAIN))


def _changed(name: str, before: str, after: str) -> str:
    if not _has_value(name):
        return f"{_called(name)} changed"
    if before == after:
        return f"{_called(name)} changed in content, still {after}"
    return f"{_called(name)} changed {before} to {after}"


def _called(name: str) -> str:
    for kind in _QUOTED:
        if name.startswith(f"{kind} "):
            return f"{kind} {name[len(kind) + 1 :]!r}"
    return "source of the task" if name == "source" else name


# --- short texts ------------------------------------------------------------------------

_FRAMES = frozenset({"numpy", "pandas", "polars", "pyarrow"})
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 60, _LONGEST

    def repr1(self, x: Any, level: int) -> str:
        # What is large is described: to write it out, only to cut it, takes long.
        shape = getattr(x, "shape", None) if type(x).__module__.split(".")[0] in _FRAMES else None
        if isinstance(shape, tuple) and shape:
            kind = f" {x.dtype}" if hasattr(x, "dtype") else ""
            return f"{type(x).__name__}{kind} {shape}"
        return super().repr1(x, level)


_short = _Short()


def short_text(value: object) -> str:
    """Describe a value in some 80 characters: without addresses, on one line, never raising."""
    try:
        text = _short.repr(value)
    except Exception:  # noqa: BLE001  (anybody's __repr__)
        text = f"<{type(value).__name__}>"
    return cut(without_addresses(text))


def cut(text: str) -> str:
    """Put a text on one line, of at most 80 characters."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def without_addresses(text: str) -> str:
    """Leave out where objects are in memory: it differs from run to run."""
    return _ADDRESS.sub("", text)
