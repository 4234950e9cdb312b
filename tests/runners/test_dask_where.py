"""Which Dask cluster is meant: what is refused before anything is connected."""

from typing import Any

import pytest

from penstock_runners.dask_cluster.where import Where


def test_nothing_named_is_a_cluster_on_this_machine() -> None:
    assert Where().is_local
    assert Where(n_workers=2, cluster_kwargs={"memory_limit": "1GB"}).is_local
    assert not Where(address="tcp://host:8786").is_local
    assert not Where(cluster_class="dask_jobqueue:SLURMCluster").is_local


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("", Where()),
        ("4", Where(n_workers=4)),
        ("tcp://host:8786", Where(address="tcp://host:8786")),
        ("tls://host:8786", Where(address="tls://host:8786")),
        ("tcp://[::1]:8786", Where(address="tcp://[::1]:8786")),
        ("host:8786", Where(address="host:8786")),
    ],
)
def test_the_short_form_after_the_colon(argument: str, meant: Where) -> None:
    assert Where.from_spec(argument) == meant


@pytest.mark.parametrize("argument", ["0", "-1", "4.5", "four", "²"])
def test_a_short_form_that_means_nothing_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=r"as in 'dask:4', or the address of a scheduler"):
        Where.from_spec(argument)


@pytest.mark.parametrize("address", ["tcp://host", "tls://host:", "tcp://host:port"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="has no port number; a scheduler usually has 8786"):
        Where.from_spec(address)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "tcp://a:1", "client": 1}, "give one of address and client, not both"),
        ({"cluster": 1, "cluster_class": dict}, "give one of cluster and cluster_class"),
        ({"address": "tcp://a:1", "cluster_kwargs": {}}, "cluster_kwargs are for a cluster to be"),
        ({"cluster": 1, "adapt_kwargs": {}}, "whoever made the one of `cluster` decides"),
        ({"address": "tcp://a:1", "n_workers": 2}, "with `address` the cluster decides"),
        ({"cluster_class": dict, "n_workers": 2}, "put it into cluster_kwargs"),
        ({"n_workers": 2, "cluster_kwargs": {"n_workers": 3}}, "n_workers is given twice"),
        ({"n_workers": 0}, "n_workers must be a whole number, 1 or more, not 0"),
        ({"n_workers": True}, "n_workers must be a whole number"),
        ({"client": 1, "security": 1}, "security is taken from `client`"),
        ({"cluster": 1, "security": 1}, "security is taken from `cluster`"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number above 0"),
        ({"timeout_seconds": "5"}, "timeout_seconds must be a number above 0"),
        ({"cluster_class": "SLURMCluster"}, "as in 'dask_jobqueue:SLURMCluster'"),
        ({"cluster_class": "a b:C"}, "as in 'dask_jobqueue:SLURMCluster'"),
        ({"cluster_class": 5}, "must be a class that makes a cluster, not 5"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Where(**arguments)


def test_an_address_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="address must be text"):
        Where(address=8786)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "workers"),
    [
        (Where(), 8),
        (Where(n_workers=3), 3),
        (Where(cluster_kwargs={"n_workers": 5}), 5),
        (Where(adapt_kwargs={"minimum": 1, "maximum": 9}), 1),
        (Where(adapt_kwargs={"maximum": 9}), 0),
        (Where(n_workers=2, adapt_kwargs={"maximum": 9}), 2),
    ],
)
def test_how_many_workers_a_local_cluster_starts_with(where: Where, workers: int) -> None:
    assert where.count_workers(cpus=8) == workers
