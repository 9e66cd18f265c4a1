"""Notes about how rows were scored: by their task's preset, or by a criterion out of range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gallery_pages import dump, made
from scored import CAT, PERFECT, PROSE, judging, rollout

from verl_visionr1 import PRESETS, Target
from verl_visionr1.rewards import Criterion
from verl_visionr1.rollouts.judged import TableBuilder
from verl_visionr1.rollouts.numbers import describe_routed, range_notes, routed_of
from verl_visionr1.tools.schedule.replay import replay
from verl_visionr1.tools.score.rescore import rescore

COUNT = Target(task="counting", size_wh=(640, 480), count=1)


def five(answer) -> float:
    return 5.0 if answer.boxes_xyxy else -3.0


OWN = replace(PRESETS["visionr1"], name="own", criteria=(*PRESETS["visionr1"].criteria, Criterion("five", five, 0.5)))


def test_rows_of_a_task_that_the_preset_does_not_score_are_named(tmp_path: Path) -> None:
    rows = [rollout(PERFECT), rollout("1", target=COUNT)]
    report = rescore(rows, judging("counting"))
    assert report.routed == replay(rows, judging("counting")).routed == {"detection": "visionr1"}
    (note,) = describe_routed(report.routed)
    assert rescore(rows[1:], judging("counting")).routed == {}
    path = dump(tmp_path / "1.jsonl", {})
    for preset, is_noted in (("counting", True), ("visionr1", False), ("visionr1-paper", False)):
        written, payload, _ = made([path], tmp_path / "page.html", judging=judging(preset))
        assert (note in written.notes, note in payload["notes"]) == (is_noted, is_noted)


@pytest.mark.parametrize(("texts", "value"), [([PERFECT, PROSE], "5"), ([PROSE], "-3")])
def test_a_criterion_out_of_range_is_named_with_its_farthest_value(
    texts: list[str], value: str, tmp_path: Path
) -> None:
    own = replace(judging(), preset=OWN)
    hints = rescore([rollout(text) for text in texts], own).hints
    (note,) = [hint for hint in hints if "criteria.five" in hint]
    assert f"returned {value} ({__file__}:" in note
    path = dump(tmp_path / "1.jsonl", *({"output": text, "gts": CAT.to_json()} for text in texts))
    assert note in made([path], tmp_path / "page.html", judging=own)[0].notes
    assert not any("criteria." in hint for hint in rescore([rollout(PERFECT)], judging()).hints)


def test_an_empty_table_has_no_notes() -> None:
    table = TableBuilder().table()
    assert (routed_of(table, OWN), range_notes(table)) == ({}, [])
