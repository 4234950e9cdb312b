"""What `penstock run FILE --help` says of the flow: its docstring and its parameters."""

from __future__ import annotations

import inspect
import re
import typing
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from penstock.cli.parameters import NOTHING, Parameter, flow_parameters, takes_more

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from penstock.flows import Flow

__all__ = ["parameter_table", "split_docstring"]


def parameter_table(flow: Flow[..., Any], options: Collection[str] = ()) -> Table:
    """Return a table of what can be given to a flow.

    Args:
        flow: the flow.
        options: options of the command itself, which come before a parameter of the same name.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    _, described = split_docstring(flow.description or "")
    for parameter in flow_parameters(flow).values():
        notes = "required" if parameter.is_required else f"default: {_shown(parameter)}"
        if parameter.option in options:
            notes += f"; give it after a `--`, as {parameter.option} is an option of the command"
        text = Text(described.get(parameter.name, ""))
        text.append(f" [{notes}]" if text.plain else f"[{notes}]", style="dim")
        table.add_row(Text(f"  {_usage(parameter)}"), text)
    if takes_more(flow):
        table.add_row(Text("  --ANY-NAME TEXT"), Text("passed on"))
    if not table.row_count:
        table.add_row(Text("  none"))
    return table


def _usage(parameter: Parameter) -> str:
    if parameter.is_flag:
        return f"{parameter.option} / --no-{parameter.option[2:]}"
    return f"{parameter.option} {_value_name(parameter)}"


def _value_name(parameter: Parameter) -> str:
    choices = parameter.choices()
    if choices:
        return "|".join(dict.fromkeys(_spelling(choices, value) for value in choices.values()))
    if parameter.annotation is NOTHING:
        return "TEXT"
    shown = [kind for kind in parameter.kinds() if kind is not type(None)]
    return "|".join("TEXT" if kind is str else _type_name(kind) for kind in shown) or "TEXT"


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is None and isinstance(kind, type):
        return kind.__name__.upper()
    return inspect.formatannotation(kind).replace("typing.", "")


def _shown(parameter: Parameter) -> str:
    default = parameter.default
    if parameter.is_flag and isinstance(default, bool):
        return "yes" if default else "no"
    if default is None:
        return "none"
    return _spelling(parameter.choices(), default) or str(default) or "empty"


def _spelling(choices: Mapping[str, Any], value: Any) -> str:
    """Return the first way to write a choice; nothing if it is none of them."""
    return next((spelling for spelling, each in choices.items() if each is value), "")


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring: what stands before `Args:`, and the text of each argument."""
    before, *rest = re.split(r"^(?:Args|Arguments):[ \t]*$", text, maxsplit=1, flags=re.MULTILINE)
    section = rest[0] if rest else ""
    described: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line[0].isspace():
            break  # the next section
        entry = re.match(r"^ {1,4}\*{0,2}(\w+)(?: \([^)]*\))?:\s*(.*)$", line)
        if entry:
            name = entry[1]
            described[name] = entry[2].strip()
        elif name and line.strip():
            described[name] = f"{described[name]} {line.strip()}".strip()
    return before.strip(), described
