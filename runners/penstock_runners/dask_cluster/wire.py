"""What is asked of Dask's client, in one place: all that a session does with it, typed.

Everything that Dask calls back on threads of its own ends as an order in the session's inbox.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import distributed

from penstock_runners.dask_cluster.bundle import FarSidePlugin, bundle, call_far_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock_runners.dask_cluster.connection import Connection
    from penstock_runners.dask_cluster.flight import Batch

__all__ = ["Wire"]

_log = logging.getLogger("penstock.dask")


class Wire:
    """The client of an open connection, for one session.

    Args:
        connection: open.
        client: its client.
        name: of the session, no other has it.
        post: takes orders, from any thread.
    """

    def __init__(
        self,
        connection: Connection,
        client: distributed.Client,
        name: str,
        post: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._connection = connection
        self._client: Any = client
        self._name = name
        self._post = post
        self._package = bundle().name
        self._plugin = f"{self._package}-{name}"
        self.topic = f"penstock-{client.id}"

    @property
    def is_lost(self) -> bool:
        """Whether the scheduler is gone; then nothing here may be called, as it would wait."""
        return self._connection.is_lost

    @property
    def is_ours(self) -> bool:
        """Whether the cluster ends with the connection."""
        return self._connection.is_ours

    @property
    def address(self) -> str:
        """Where the scheduler is."""
        address: str = self._client.scheduler.address
        return address

    def set_up(self) -> None:
        """Begin to listen, and put the far side into all workers, those to come included."""
        client = self._client
        client.subscribe_topic(self.topic, lambda event: self._post(("event", event[1])))
        client.subscribe_topic("all", self._on_cluster_event)
        client.register_plugin(FarSidePlugin(self._plugin, bundle()))

    def _on_cluster_event(self, event: Any) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action in ("add-worker", "remove-worker"):
            self._post((action, message["worker"], message.get("expected", True)))

    def take_down(self, futures: list[Any]) -> None:
        """Leave the cluster as it was found. It may go at any moment, too."""
        if self.is_lost:
            return
        client = self._client
        try:
            if futures:
                client.cancel(futures, force=True)
            client.unregister_worker_plugin(self._plugin)
            client.unsubscribe_topic(self.topic)
            client.unsubscribe_topic("all")
            client.run_on_scheduler(_forget_events, self.topic)
        except Exception as error:  # noqa: BLE001  (said; there is nothing else to do about it)
            _log.debug("The cluster was not left as it was found: %r", error)

    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what the scheduler says of its workers."""
        info: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)
        found: Mapping[str, Mapping[str, Any]] = info["workers"]
        return found

    def send(
        self,
        batch: Batch,
        payload: bytes,
        beside: list[Any],
        *,
        label: str,
        priority: int,
        resources: Mapping[str, float],
    ) -> None:
        """Send a batch to its worker; its end will be posted."""
        number = batch.number
        # `map` also for one: it sends the function once, and beside the arguments.
        (future,) = self._client.map(
            call_far_side,
            [self._package],
            ["run_batch"],
            [payload],
            [beside],
            key=[f"{label}-{self._name}-{number}"],
            pure=False,
            retries=0,
            priority=priority,
            workers=[batch.worker.address],
            allow_other_workers=False,
            resources=dict(resources) or None,
        )
        batch.future = future
        future.add_done_callback(lambda _: self._post(("ended", number)))

    def put(self, blob: bytes) -> Any:
        """Put bytes on the cluster, and return their future."""
        return self._client.scatter(blob, hash=False)

    def gather(self, futures: Sequence[Any]) -> list[bytes]:
        """Bring the answers of batches."""
        answers: list[bytes] = self._client.gather(futures)
        return answers

    def claim(self, keys: Sequence[str]) -> list[Any]:
        """Return futures of results that workers hold on to for us, from now on ours.

        A future alone would not tell the scheduler; this message of the client's own does.
        """
        futures: list[Any] = [distributed.Future(key, self._client) for key in keys]
        message = {"op": "client-desires-keys", "keys": list(keys), "client": self._client.id}
        self._client._send_to_scheduler(message)
        return futures

    def drop(self, futures: list[Any]) -> None:
        """Have Dask forget tasks, without waiting for that."""

        async def drop() -> None:
            await self._client.cancel(futures, asynchronous=True, force=True)

        self._client.loop.add_callback(drop)

    def ask_to_refuse(self, address: str, numbers: list[int]) -> None:
        """Have a worker refuse calls; the answer, which of them have begun, will be posted."""

        async def ask() -> None:
            answers: Any = await self._client.run(
                call_far_side,
                self._package,
                "refuse",
                self._name,
                numbers,
                workers=[address],
                on_error="return",
            )
            begun = answers.get(address)
            if isinstance(begun, list):  # else it is gone, or will be; its loss tells all
                self._post(("refused", numbers, begun))

        self._client.loop.add_callback(ask)

    def hold_floor(self, workers: int) -> None:
        """Let an adaptive cluster not shrink below so many workers; 0 lets it go."""
        if workers:
            self._connection.hold_floor(workers)
        else:
            self._connection.release_floor()


def _forget_events(topic: str, dask_scheduler: Any = None) -> None:
    """Let the scheduler drop the events of a run that is over; runs there."""
    forget = getattr(getattr(dask_scheduler, "_broker", None), "truncate", None)
    if forget is not None:
        forget(topic)


_forget_events.__module__ = "__main__"  # by value, see `bundle`
