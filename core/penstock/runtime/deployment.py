"""There are no deployments without a server: every field is empty."""

from __future__ import annotations

from typing import Any

from penstock.runtime._lookup import look_up

__all__ = ["flow_run_id", "id", "name", "parameters", "version"]

id: None
name: None
version: None
flow_run_id: None
parameters: dict[str, Any]

_FIELDS: dict[str, Any] = {
    "id": lambda: None,
    "name": lambda: None,
    "version": lambda: None,
    "flow_run_id": lambda: None,
    "parameters": dict,
}


def __getattr__(name: str) -> Any:
    return look_up("deployment", name, _FIELDS)


def __dir__() -> list[str]:
    return sorted(_FIELDS)
