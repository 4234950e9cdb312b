"""Promise of decision D1: every sample of seed page 001 runs under the alias `prefect`.

The samples are in `seeds/`, one file a block, word for word. One is changed: row 145, a flow
whose body is only a comment, gets the `pass` that makes it Python.
"""
# ruff: noqa: RUF001  (the page's own punctuation)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.compat import prefect_alias

SEEDS = Path(__file__).parent / "seeds"

ROW_145 = ("# 任务逻辑...\n", "# 任务逻辑...\n    pass\n")


def run_block(block: str) -> dict[str, Any]:
    """Execute a block as a script of its own."""
    path = SEEDS / f"{block}.py.txt"
    text = path.read_text(encoding="utf-8").replace(*ROW_145)
    scope: dict[str, Any] = {"__name__": "__main__"}
    with prefect_alias():
        exec(compile(text, str(path), "exec", dont_inherit=True), scope)
    return scope


def test_seed_140_to_143_map_then_results_then_a_summary(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_block("001_01_map")["data_pipeline"]() == [2, 4, 6]
    assert capsys.readouterr().out == "所有任务成功！结果: [2, 4, 6]\n"


def test_seed_144_a_completion_hook_may_take_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run_block("001_02_on_completion")["my_flow"]()
    assert capsys.readouterr().out == "所有任务成功，发送通知或清理资源\n"


@pytest.mark.parametrize(
    ("luck", "printed"),
    [
        ([0.9], "最终数据: data\n"),
        ([0.1, 0.2, 0.9], "最终数据: data\n"),
        ([0.1, 0.2, 0.2], "主任务失败，启用备用数据: 数据获取失败\n最终数据: 备用数据\n"),
    ],
)
def test_seed_147_to_149_a_failure_that_was_caught_has_a_fallback_and_fails_no_flow(
    luck: list[float],
    printed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = iter(luck)
    sample = run_block("001_03_fallback")
    monkeypatch.setattr("random.random", lambda: next(draws))
    sample["resilient_flow"]()
    written = capsys.readouterr()
    assert written.out == printed
    assert "Finished in state Completed('All states completed.')" in written.err
    assert list(draws) == []


def test_seed_150_to_152_a_failure_hook_may_take_flow_and_state(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sample = run_block("001_04_on_failure")
    with pytest.raises(ValueError, match="流程执行失败"):
        sample["error_prone_flow"]()
    state = "Failed('Flow run encountered an exception: ValueError: 流程执行失败')"
    assert capsys.readouterr().out == f"流程 error-prone-flow 失败！状态: {state}\n"


def test_seed_153_to_156_a_future_answers_as_a_state_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_block("001_05_inspect_state")["state_inspection_flow"]()
    written = capsys.readouterr()
    first, *others = written.out.splitlines()
    assert first in {"任务是否完成? True", "任务是否完成? False"}
    assert others == ["任务结果: None", "任务异常: None"]
    assert "WARNING | Task run 'critical_task-0' - 这是一个重要任务" in written.err


def test_seed_146_the_file_system_of_the_sample_can_be_imported() -> None:
    assert isinstance(run_block("001_03_fallback")["LocalFileSystem"], type)


def test_d1_every_block_is_run_here_and_only_row_145_is_changed() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in SEEDS.glob("001_*")}
    here = Path(__file__).read_text(encoding="utf-8")
    assert len(texts) == 5
    assert [name for name in texts if f'"{name.partition(".")[0]}' not in here] == []
    assert [name for name in texts if ROW_145[0] in texts[name]] == ["001_02_on_completion.py.txt"]
