"""What is asked of Dask's client, in one place: all that a session does with it, typed.

Nothing here waits for the cluster, but what says so: a scheduler that is busy or stuck must not
hold up the session. What Dask answers, on threads of its own, ends as an order in its inbox.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import distributed

from penstock_runners.dask_cluster import news
from penstock_runners.dask_cluster.bundle import FarSidePlugin, bundle, call_far_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from penstock_runners.dask_cluster.connection import Connection
    from penstock_runners.dask_cluster.flight import Batch

__all__ = ["Wire"]

_log = logging.getLogger("penstock.dask")

SECONDS_FOR_LEAVING: Final = 5.0
SECONDS_FOR_PUTTING: Final = 60.0
MOST_TOLD_BYTES: Final = 16 << 20
"""The scheduler remembers what workers have told, until so much has come together."""


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
        self.topic: str = f"penstock-{name}"
        self._told_bytes = 0
        self._stood_in = 0

    @property
    def is_lost(self) -> bool:
        """Whether the scheduler is gone; then nothing here may be called, as it would wait."""
        return self._connection.is_lost

    @property
    def is_ours(self) -> bool:
        """Whether the cluster ends with the connection."""
        return self._connection.is_ours

    @property
    def is_elastic(self) -> bool:
        """Whether workers may come that are wanted."""
        return self._connection.is_elastic

    @property
    def address(self) -> str:
        """Where the scheduler is."""
        address: str = self._client.scheduler.address
        return address

    def listen(self) -> Mapping[str, Mapping[str, Any]]:
        """Begin to have news posted. Waits.

        Returns:
            What the scheduler says of its workers, by address.
        """
        client, topics = self._client, [self.topic, news.TOPIC]
        client._event_handlers[self.topic] = lambda event: self._post(("event", event[1]))
        news.listen(client, self._name, self._on_cluster_event)
        found: Mapping[str, Mapping[str, Any]]
        try:
            # As `subscribe_topic` does; but a client sends nothing for 10 ms after that.
            found = client.run_on_scheduler(_subscribe, topics, client.id)
        except Exception as error:  # noqa: BLE001  (it may be made in another way, or forbid this)
            _log.debug("The scheduler does not subscribe for others: %r", error)
            for topic in topics:
                client.subscribe_topic(topic, client._event_handlers[topic])
            found = client.scheduler_info(n_workers=-1)["workers"]
        return found

    def set_up(self) -> None:
        """Put the far side into all workers, those to come included. Waits."""
        self._client.register_plugin(FarSidePlugin(self._plugin, bundle()))

    def _on_cluster_event(self, event: Any) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action in ("add-worker", "remove-worker"):
            self._post((action, message["worker"], message.get("expected", True)))

    def take_down(self, futures: list[Any]) -> None:
        """Leave the cluster as it was found. It may go at any moment, too. Waits, not for long."""
        topics = [news.TOPIC] if news.leave(self._client, self._name) else []
        if self.is_lost:
            return
        try:
            self._client.sync(self._leave, futures, topics, callback_timeout=SECONDS_FOR_LEAVING)
        except Exception as error:  # noqa: BLE001  (said; there is nothing else to do about it)
            _log.debug("The cluster was not left as it was found: %r", error)

    async def _leave(self, futures: list[Any], topics: list[str]) -> None:
        client = self._client
        client._event_handlers[self.topic] = _ignore  # some may be on their way yet
        is_forgotten, _ = await asyncio.gather(
            client.run_on_scheduler(_forget_topic, self.topic, topics, client.id),
            client.unregister_worker_plugin(self._plugin),
        )
        if not is_forgotten:
            for topic in (self.topic, *topics):
                client.unsubscribe_topic(topic)
        if topics and news.is_heard(client):  # somebody has come meanwhile
            client.subscribe_topic(news.TOPIC, client._event_handlers[news.TOPIC])
        if futures:  # last: workers answer nobody while they give large results back
            await client.cancel(futures, asynchronous=True, force=True)

    def look(self) -> None:
        """Ask the scheduler which workers there are; the answer will be posted."""

        async def look() -> None:
            info: Mapping[str, Any] = await self._client.scheduler.identity(n_workers=-1)
            self._post(("workers", info["workers"]))

        self._begin(look)

    def note_told(self, nbytes: int) -> None:
        """Count what workers have told, which the scheduler remembers; let it forget in time."""
        self._told_bytes += nbytes
        if self._told_bytes < MOST_TOLD_BYTES:
            return
        self._told_bytes = 0

        async def forget() -> None:
            await self._client.run_on_scheduler(_forget_events, self.topic)

        self._begin(forget)

    def _begin(self, do: Callable[[], Any]) -> None:
        """Do something on the client's loop. If the scheduler is lost meanwhile, it shows there."""

        async def in_loop() -> None:
            try:
                await do()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  (see above)
                _log.debug("The Dask scheduler was asked in vain: %r", error)

        self._client.loop.add_callback(in_loop)

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
        """Put bytes on the cluster, and return their future; None if that cannot be. Waits."""
        try:
            return self._client.sync(
                self._client._scatter, blob, hash=False, callback_timeout=SECONDS_FOR_PUTTING
            )
        except (OSError, ValueError, TimeoutError) as error:  # workers, or the scheduler, are gone
            _log.debug("Nothing could be put on the Dask cluster: %r", error)
            return None

    def bring(self, batch: Batch) -> None:
        """Ask for the answer of a batch; it will be posted.

        It is gone if its worker died after the batch; then nothing comes, but the loss is told.
        """

        async def bring() -> None:
            (answer,) = await self._client.gather([batch.future], asynchronous=True)
            self._post(("answered", batch.number, answer))

        self._begin(bring)

    def futures_of(self, keys: Sequence[str]) -> list[Any]:
        """Return futures of results that workers hold on to for us, until they are claimed."""
        return [distributed.Future(key, self._client) for key in keys]

    def claim(self, futures: Sequence[Any]) -> None:
        """Tell the scheduler that these results are ours; a future alone would not."""
        keys = [future.key for future in futures]
        message = {"op": "client-desires-keys", "keys": keys, "client": self._client.id}
        self._client._send_to_scheduler(message)

    def lose(self, futures: Sequence[Any]) -> None:
        """Have these futures be cancelled here, as when the scheduler says that a key is gone."""
        keys = [future.key for future in futures]
        self._client.loop.add_callback(self._client._handle_cancelled_keys, keys)

    def drop(self, futures: list[Any]) -> None:
        """Have Dask forget tasks, without waiting for that."""

        async def drop() -> None:
            await self._client.cancel(futures, asynchronous=True, force=True)

        self._begin(drop)

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

        self._begin(ask)

    def stand_in(self, count: int) -> list[Any]:
        """Put tasks on the cluster that no worker will ever run."""
        self._stood_in += count
        first = self._stood_in - count
        futures: list[Any] = self._client.map(
            call_far_side,
            [self._package] * count,
            key=[f"penstock_waiting-{self._name}-{first + n}" for n in range(count)],
            pure=False,
            resources={f"penstock-{self._name}": 1},
        )
        return futures

    def hold_floor(self, workers: int) -> None:
        """Let an adaptive cluster not shrink below so many workers; 0 lets it go."""
        if workers:
            self._connection.hold_floor(workers)
        else:
            self._connection.release_floor()


def _ignore(_: Any) -> None:
    """Take an event of a run that is over."""


def _forget_events(topic: str, dask_scheduler: Any = None) -> None:
    """Let the scheduler drop the events of a topic; runs there. Its insides are not public."""
    forget = getattr(getattr(dask_scheduler, "_broker", None), "truncate", None)
    if forget is not None:
        forget(topic)


def _subscribe(
    topics: list[str], client: str, dask_scheduler: Any = None
) -> Mapping[str, Mapping[str, Any]]:
    """Have events of topics sent to a client; return the scheduler's workers; runs there."""
    for topic in topics:
        dask_scheduler.subscribe_topic(topic, client)
    found: Mapping[str, Mapping[str, Any]] = dask_scheduler.identity()["workers"]
    return found


def _forget_topic(topic: str, others: list[str], client: str, dask_scheduler: Any = None) -> bool:
    """Let the scheduler drop a topic, and what it has noted of a client that leaves; runs there.

    It would keep the topic if it were unsubscribed from. False: it is made in another way.
    """
    topics = getattr(getattr(dask_scheduler, "_broker", None), "_topics", None)
    if topics is None:
        return False
    for other in others:
        dask_scheduler.unsubscribe_topic(other, client)
    topics.pop(topic, None)
    if client in topics:
        topics[client].truncate()
    return True


for _each in (_subscribe, _forget_events, _forget_topic):
    _each.__module__ = "__main__"  # by value, see `bundle`
