"""Notes about scored rows: preset of their task, a criterion out of range, frame, ground truth, causes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gallery_pages import dump, made
from scored import CAT, PERFECT, PROSE, judging, rollout, said
from typer.testing import CliRunner, Result

from verl_visionr1 import PRESETS, Target
from verl_visionr1.cli import app
from verl_visionr1.rewards import Criterion
from verl_visionr1.rewards.composition import preset_to_dict
from verl_visionr1.rollouts.judged import TableBuilder
from verl_visionr1.rollouts.numbers import describe_routed, range_notes, routed_of
from verl_visionr1.rollouts.run import Start, write_run
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


BIG = Target(
    task="detection", size_wh=(640, 480), boxes_xyxy=[[300, 300, 600, 450]], labels=["cat"], categories=["cat", "bird"]
)
EMPTY = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[], labels=[])
DOG = '[{"bbox_2d": [469, 625, 938, 938], "label": "dog"}]'
NO_KEY = '[{"box": [100, 100, 200, 200], "label": "cat"}]'


def command(name: str, folder: Path, frame: str, *texts: str, target: Target = CAT) -> Result:
    """Run a command on a dump, with a run record if there is a frame."""
    rows = ({"output": text, "gts": target.to_json(), "score": 1 / 3, "uid": f"{i}"} for i, text in enumerate(texts))
    path = dump(folder / "1.jsonl", *rows)
    if frame:
        write_run(Start(presets=[preset_to_dict(PRESETS["visionr1"])], frame=frame, checkpoint_dir=str(folder)))
    out = {"gallery": ["--out", str(folder / "page.html")], "explain": ["--row", "1"]}.get(name, [])
    done = CliRunner().invoke(app, [name, str(path), *out])
    assert done.exit_code == 0, done.output
    return done


NOTED = {
    "a run in its frame": (("original", PERFECT), {}, "frame original does not fit", False),
    "a run in another frame": (("percent", PERFECT), {}, "--frame original gives a mean IoU of 1.00", True),
    "wrong labels in another frame": (("original", DOG), {"target": BIG}, "--frame qwen3-vl gives", True),
    "wrong labels without a record": (("", DOG), {"target": BIG}, "assumed frame qwen3-vl", True),
    "no object without a record": (("", DOG), {"target": EMPTY}, "assumed frame qwen3-vl", True),
    "no object": (("original", *[PERFECT] * 10), {"target": EMPTY}, "10 of 10 rows examined have no object", True),
    "no object in a row": (("original", PERFECT), {"target": EMPTY}, "no object", False),
    "objects": (("original", PERFECT), {}, "no object", False),
}


@pytest.mark.parametrize("name", ["score", "explain", "gallery"])
@pytest.mark.parametrize(("given", "changes", "note", "is_noted"), NOTED.values(), ids=NOTED)
def test_a_frame_or_ground_truth_that_does_not_fit_is_named(
    given: tuple[str, ...], changes: dict[str, Target], note: str, is_noted: bool, name: str, tmp_path: Path
) -> None:
    assert (note in command(name, tmp_path, *given, **changes).stderr) is is_noted


def test_the_causes_of_lost_reward_are_counted_and_the_commonest_is_explained(tmp_path: Path) -> None:
    shown = command("score", tmp_path, "original", PERFECT, NO_KEY, said(40), NO_KEY).stdout
    assert "wrong key 2, below the threshold 1 of 4 rows examined" in shown
    assert f"visionr1 explain {tmp_path / '1.jsonl'} --row 2\n" in shown
    plain = json.loads(CliRunner().invoke(app, ["score", str(tmp_path / "1.jsonl"), "--json"]).stdout)
    assert [(it["cause"], it["n"], it["row"]) for it in plain["causes"]][:1] == [("wrong key", 2, 2)]
    done = CliRunner().invoke(app, ["explain", str(tmp_path)])
    assert (done.stdout[:9], "row 2 is explained" in done.stderr) == ("wrong key", True)
    assert "first cause" not in command("score", tmp_path, "original", PERFECT).stdout
    assert CliRunner().invoke(app, ["explain", str(tmp_path / "1.jsonl")]).exit_code == 2


def test_options_and_data_files_of_the_run_are_named_in_hints(tmp_path: Path) -> None:
    path = dump(tmp_path / "a b.jsonl", {"output": NO_KEY, "gts": CAT.to_json()})
    words = ["--preset", "visionr1-paper", "--route", "counting=counting", "--frame", "original"]
    shown = CliRunner().invoke(app, ["score", str(path), *words]).stdout
    assert f"explain '{path}' --row 1 --preset visionr1-paper --route counting=counting --frame original\n" in shown
