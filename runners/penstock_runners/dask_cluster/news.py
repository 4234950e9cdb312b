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

__all__ = ["leave", "listen"]

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
    """Have news passed to a listener, in a thread of the client's: it must only enqueue."""
    with _lock:
        hub = _hubs.get(client)
        current = client._event_handlers.get(TOPIC)
        if hub is None or current is not hub:
            hub = _hubs[client] = _Hub(current)
            client.subscribe_topic(TOPIC, hub)
        hub.listeners[name] = listener


def leave(client: Any, name: str) -> None:
    """Stop that; the last to leave puts things back."""
    with _lock:
        hub = _hubs.get(client)
        if hub is None:
            return
        hub.listeners.pop(name, None)
        if hub.listeners:
            return
        del _hubs[client]
        if client._event_handlers.get(TOPIC) is not hub:
            return  # its owner has put another one there since
        if hub.owners is None:
            client.unsubscribe_topic(TOPIC)
            client._event_handlers.pop(TOPIC, None)
        else:
            client.subscribe_topic(TOPIC, hub.owners)
