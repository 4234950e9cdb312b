"""News of a cluster's workers, for all sessions of one client, and for its owner.

A client has one handler for each topic. A client that was given may serve several runs at a time,
and its owner may listen to the same topic.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    Listener: TypeAlias = Callable[[Any], object]

__all__ = ["TOPIC", "is_heard", "leave", "listen"]

TOPIC: Final = "all"

_lock = threading.Lock()
_hubs: weakref.WeakKeyDictionary[Any, _Hub] = weakref.WeakKeyDictionary()


class _Hub:
    """The handler of one client's topic."""

    def __init__(self, owners: Listener | None) -> None:
        self.owners = owners
        """What the client's owner had there before."""
        self.listeners: dict[str, Listener] = {}

    def __call__(self, event: Any) -> Any:
        for listener in tuple(self.listeners.values()):
            listener(event)
        return None if self.owners is None else self.owners(event)


def listen(client: Any, name: str, listener: Listener) -> None:
    """Have news passed to a listener, in a thread of the client's: it must only enqueue.

    After this the client has to subscribe to the topic; that it did so before does no harm.
    """
    with _lock:
        hub = _hubs.get(client)
        current = client._event_handlers.get(TOPIC)
        if hub is None or current is not hub:
            hub = _hubs[client] = _Hub(current)
            client._event_handlers[TOPIC] = hub
        hub.listeners[name] = listener


def leave(client: Any, name: str) -> bool:
    """Stop that; the last to leave lets the owner be alone with the topic.

    Returns:
        Whether the client must unsubscribe from it now, and then see whether it `is_heard` again.
        Its handler stays: Dask has errors about events that arrive and find none.
    """
    with _lock:
        hub = _hubs.get(client)
        if hub is None or hub.listeners.pop(name, None) is None or hub.listeners:
            return False
        return hub.owners is None and client._event_handlers.get(TOPIC) is hub


def is_heard(client: Any) -> bool:
    """Whether anybody listens."""
    with _lock:
        hub = _hubs.get(client)
        return hub is not None and bool(hub.listeners)
