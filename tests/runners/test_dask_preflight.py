"""Versions of driver, scheduler and workers compared, as in users.md row 38; pure."""

from typing import Any

import pytest

from penstock_runners.dask_cluster.preflight import compare


def node(
    python: str = "3.11.7.final.0", cloudpickle: str | None = "3.1.2", distributed: str = "2026.8.0"
) -> dict[str, Any]:
    packages = {"python": python, "cloudpickle": cloudpickle, "distributed": distributed}
    return {"host": {}, "packages": packages}


def versions(*workers: dict[str, Any], scheduler: dict[str, Any] | None = None) -> dict[str, Any]:
    named = {f"tcp://10.0.0.{number}:1": worker for number, worker in enumerate(workers)}
    return {"client": node(), "scheduler": scheduler or node(), "workers": named}


def test_equal_versions_are_fine() -> None:
    report = compare(versions(node(), node()))
    assert report.is_fine
    assert not report.is_fatal(strict=True)
    assert report.message() == ""


def test_no_worker_yet_is_fine() -> None:
    assert compare(versions()).is_fine


@pytest.mark.parametrize(
    "there", [node(python="3.11.2.final.0"), node(cloudpickle="3.1.9")], ids=["python", "pickle"]
)
def test_patch_versions_may_differ(there: dict[str, Any]) -> None:
    assert compare(versions(there)).is_fine


def test_another_python_minor_on_a_worker_is_fatal() -> None:
    report = compare(versions(node(), node(python="3.12.1.final.0")))
    assert report.is_fatal()
    assert [each.place for each in report.disagreements] == ["tcp://10.0.0.1:1"]
    assert "python 3.12.1 on tcp://10.0.0.1:1; here it is 3.11.7" in report.message()
    assert "10.0.0.0" not in report.message()


def test_another_python_minor_on_the_scheduler_is_fatal() -> None:
    report = compare(versions(scheduler=node(python="3.13.0.final.0")))
    assert report.is_fatal()
    assert "on the scheduler" in report.message()


@pytest.mark.parametrize(
    "there", [node(cloudpickle="2.2.1"), node(cloudpickle=None), node(distributed="2026.7.0")]
)
def test_other_packages_are_fatal_only_if_strict(there: dict[str, Any]) -> None:
    report = compare(versions(there))
    assert not report.is_fine
    assert not report.is_fatal()
    assert report.is_fatal(strict=True)


def test_one_message_lists_everything_and_says_what_to_do() -> None:
    old = node(python="3.10.1.final.0", cloudpickle="2.0.0")
    message = compare(versions(old, old, node(distributed="2025.1.0"))).message()
    assert "python 3.10.1 on tcp://10.0.0.0:1, tcp://10.0.0.1:1;" in message
    assert "cloudpickle 2.0.0 on tcp://10.0.0.0:1, tcp://10.0.0.1:1;" in message
    assert "distributed 2025.1.0 on tcp://10.0.0.2:1;" in message
    assert "Run the flow with the Python of the cluster" in message


def test_a_thousand_workers_make_no_thousand_lines() -> None:
    message = compare(versions(*[node(python="3.9.1.final.0")] * 1000)).message()
    assert "and 995 more workers" in message
    assert len(message) < 700


def test_a_worker_that_left_while_it_was_asked_is_no_disagreement() -> None:
    asked = versions(node())
    asked["workers"]["tcp://10.0.0.9:1"] = None
    assert compare(asked).is_fine
