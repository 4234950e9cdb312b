"""Row 013: the async twins of names at the top level."""

import asyncio

import pytest

import penstock
from penstock import apause_flow_run, aresume_flow_run, flow
from penstock.context import current_flow_run
from penstock.exceptions import NotSupportedError, PauseTimeoutError


def test_seed_013_an_async_flow_pauses_without_blocking_its_loop() -> None:
    seen: list[str] = []

    @flow
    async def body() -> str:
        run = current_flow_run()
        assert run is not None

        async def resume() -> None:  # has its turn when the flow's coroutine waits
            seen.append(str(run.state))
            await aresume_flow_run(run.id)

        helper = asyncio.create_task(resume())
        await apause_flow_run(timeout=10)
        await helper
        return run.state.name

    assert asyncio.run(body()) == "Running"
    assert seen == ["Paused()"]


def test_seed_013_a_pause_that_nobody_ends_fails_the_flow() -> None:
    @flow
    async def body() -> None:
        await apause_flow_run(timeout=0.01)

    with pytest.raises(PauseTimeoutError, match="was not resumed"):
        asyncio.run(body())


@pytest.mark.parametrize("name", ["aserve", "adeploy", "asuspend_flow_run"])
def test_seed_013_what_needs_a_server_says_so_when_awaited(name: str) -> None:
    with pytest.raises(NotSupportedError):
        asyncio.run(getattr(penstock, name)())
