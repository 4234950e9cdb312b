"""What a thread runner is configured with."""

import pytest

from penstock.cpus import usable_cpus
from penstock_runners.thread import ThreadPoolTaskRunner


def test_a_spec_is_a_number_of_threads() -> None:
    assert ThreadPoolTaskRunner.from_spec("8").max_workers == 8
    assert ThreadPoolTaskRunner.from_spec("").max_workers == min(32, usable_cpus() + 4)


@pytest.mark.parametrize("argument", ["0", "-1", "many", "2.5", " 8", "+8", "1_0", "\uff18", "2,3"])
def test_any_other_spec_is_refused_with_what_is_taken(argument: str) -> None:
    with pytest.raises(ValueError, match="a number of threads, 1 or more, as in 'thread:4'"):
        ThreadPoolTaskRunner.from_spec(argument)


@pytest.mark.parametrize("value", [0, -3, 2.0, "4", True])
def test_an_impossible_number_is_refused_with_its_name(value: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be a whole number, 1 or more"):
        ThreadPoolTaskRunner(max_workers=value)
    with pytest.raises(ValueError, match="max_async must be a whole number, 1 or more"):
        ThreadPoolTaskRunner(max_async=value)
