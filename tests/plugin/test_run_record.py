"""A run writes down what it is, and every tool judges its dumps as the run did, without an option.

The dumps are made by the real reward manager: what it gave is what the tools have to give, to 1e-6.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from typer.testing import CliRunner
from verl_rows import CharTokenizer, judged, trajectory

from verl_visionr1 import Target
from verl_visionr1.cli import app
from verl_visionr1.files import RowsError
from verl_visionr1.rollouts.run import (
    RUN_FILE,
    Run,
    Start,
    find_run,
    read_run,
    run_directory,
    run_files,
    start_of_model,
    write_run,
)

pytestmark = pytest.mark.verl

STEPS = 10
BOXES = [[64, 48, 128, 96], [320, 240, 480, 400]]
TARGETS = {
    "det": Target(task="detection", size_wh=(640, 480), boxes_xyxy=BOXES, labels=["cat", "dog"]),
    "ref": Target(task="grounding", size_wh=(640, 480), boxes_xyxy=BOXES[:1], labels=["odd cat"]),
    "count": Target(task="counting", size_wh=(640, 480), count=3),
}


def answer(target: Target, shrink: float) -> str:
    """Boxes in thousandths, each smaller than its object by a share of its height."""
    if target.task == "counting":
        return str(round(3 + 4 * shrink))
    items = []
    for (x1, y1, x2, y2), label in zip(target.boxes_xyxy, target.labels, strict=True):
        y2 = y2 - shrink * (y2 - y1)
        box = [round(1000 * side / size) for side, size in zip((x1, y1, x2, y2), (640, 480) * 2, strict=True)]
        items.append({"bbox_2d": box, "label": label})
    return json.dumps(items)


def config_of(run: Path, **settings: Any) -> DictConfig:
    return OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"optim": {"total_training_steps": STEPS}}, "model": {"path": None}},
            "data": {"max_response_length": 400, "train_files": [str(run / "train.parquet")], "val_files": []},
            "trainer": {
                **{"v1": {"trainer_mode": "sync", "sync": {"parameter_sync_step": 1}}, "resume_mode": "disable"},
                **{"default_local_dir": str(run / "checkpoints"), "rollout_data_dir": str(run / "rollouts")},
                "validation_data_dir": str(run / "validation"),
            },
            "reward": {"reward_kwargs": {"visionr1": {"frame": "qwen3-vl", **settings}}},
        }
    )


def manager_of(config: DictConfig) -> Any:
    """Started as verl's reward workers start it: it writes the record."""
    from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

    return VisionR1RewardManager(config, CharTokenizer(), None)


def dump(manager: Any, file: Path, step: int, *, is_validation: bool) -> None:
    """A dump as verl's V1 trainer writes it: rewards as float32; of validation also what the manager reports."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, target in TARGETS.items():
        for sample, shrink in enumerate((0.0, 0.15, 0.3, 0.45)):
            text = answer(target, shrink)
            extra_info = {"split": "val" if is_validation else "train"}
            source = {"det": "detection/x", "ref": "gui/y", "count": "counts"}[name]
            columns = {"global_steps": step, "extra_info": extra_info, "data_source": source}
            given = judged(manager, trajectory(text, target, **columns))
            row = {"input": f"user\n{name}?\nassistant\n", "output": text, "gts": target.to_json()}
            row |= {"score": float(np.float32(given["reward_score"])), "step": step}
            row |= {**given["reward_extra_info"], "reward": row["score"]} if is_validation else {}
            lines.append(json.dumps({**row, "uid": f"{name}_{sample}_0"}))
    file.write_text("\n".join(lines) + "\n")


def made(run: Path, **settings: Any) -> Path:
    manager = manager_of(config_of(run, **settings))
    for step in (1, 5, 6, STEPS):
        dump(manager, run / "rollouts" / f"{step}.jsonl", step, is_validation=False)
    for step in (0, STEPS):
        dump(manager, run / "validation" / f"{step}.jsonl", step, is_validation=True)
    return run


SETTINGS: dict[str, dict[str, Any]] = {
    "the default": {},
    "other weights and thresholds": {
        "weights": {"format": 0.0, "recall": 2.0},
        "schedule": {"stages": [[0.4, 0.4, 0.6], [0.6, 0.6, 0.8]], "at": 0.55},
    },
    "a ramp, validation as in training": {"schedule": {"kind": "linear"}, "validation": "current"},
    "a ramp": {"schedule": {"kind": "cosine", "begin": 0.2}},
    "no schedule": {"schedule": {"kind": "off"}},
    "a total of its own": {"total_steps": 7},
    "routes": {"routes": {"task": {"counting": "counting-mra"}}, "preset": "visionr1-paper"},
    "the released reward": {"preset": "visionr1-released"},
}


@pytest.fixture(params=SETTINGS, scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("run"), **SETTINGS[request.param])


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_score_gives_what_the_run_gave(run: Path) -> None:
    reports = json.loads(invoke("score", run, "--json"))
    assert {name: report["n_rows"] for name, report in reports.items()} == {"rollouts": 48, "validation": 24}
    for report in reports.values():
        assert report["saved"]["equal"] == 1.0
        assert report["saved"]["max_difference"] < 1e-6
        assert report["overall"]["reward"] == pytest.approx(report["saved"]["mean"], abs=1e-6)
        assert report["hints"] == []


@pytest.mark.parametrize("folder", ["rollouts", "validation"])
def test_a_folder_or_a_file_of_the_run_is_enough(run: Path, folder: str) -> None:
    for path in (run / folder, run / folder / f"{STEPS}.jsonl"):
        assert json.loads(invoke("score", path, "--json"))["saved"]["equal"] == 1.0


def rows_of(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return enumerate(map(json.loads, file.read_text().splitlines()), 1)


def test_explain_gives_what_the_run_gave(run: Path) -> None:
    for step, folder in ((1, "rollouts"), (6, "rollouts"), (0, "validation")):
        for number, row in list(rows_of(run / folder / f"{step}.jsonl"))[::5]:
            found = json.loads(invoke("explain", run, "--step", step, "--row", number, "--json"))
            assert found["value"] == pytest.approx(row["score"], abs=1e-6)
            assert found["saved"] == row["score"]
            if folder == "validation":
                assert found["stage"] == row["stage"]
                assert found["thresholds"]["match_iou"] == pytest.approx(row["match_iou"])


def test_gallery_gives_what_the_run_gave(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "g.html"
    result = CliRunner().invoke(app, ["gallery", str(run), "--out", str(page), "--no-causes"])
    assert result.exit_code == 0, result.output
    assert '"differs":true' not in page.read_text()
    assert '"options":""' in page.read_text(), "its commands need no options"


def test_eval_measures_the_last_validation(run: Path, tmp_path: Path) -> None:
    invoke("eval", run, "--out", tmp_path / "e", "--resamples", 0)
    report = json.loads((tmp_path / "e" / "report.json").read_text())
    numbers = {section["task"]: section["estimates"] for section in report["sections"]}
    assert numbers["detection"]["AP50"]["value"] is not None
    assert numbers["grounding"]["Acc@0.5"]["value"] is not None if "Acc@0.5" in numbers["grounding"] else True
    saved = {n: row["score"] for n, row in rows_of(run / "validation" / f"{STEPS}.jsonl")}
    rows = [json.loads(line) for line in (tmp_path / "e" / "report.rows.jsonl").read_text().splitlines()]
    assert {row["row"]: pytest.approx(row["reward"], abs=1e-6) for row in rows} == saved


@pytest.mark.usefixtures("undrawn")
def test_report_compares_the_validations_that_were_dumped(run: Path) -> None:
    """Of a run whose metrics went to another logger: its first and last validation, as the run rewarded them."""
    invoke("report", run)
    report = json.loads((run / "report.json").read_text())
    assert report["steps"] == [0, STEPS]
    rows = [row for _, row in rows_of(run / "validation" / f"{STEPS}.jsonl")]
    for section in report["sections"]:
        (reward,) = [metric for metric in section["metrics"] if metric["key"] == "reward"]
        saved = [row["score"] for row in rows if json.loads(row["gts"])["task"] == section["source"]]
        assert reward["after"] == pytest.approx(np.mean(saved), abs=1e-6)


def test_schedule_is_the_runs_own(run: Path) -> None:
    plain = json.loads(invoke("schedule", run, "--json"))
    start = read_run(run / RUN_FILE).last
    assert plain["preset"] == start.presets[0]["name"]
    assert plain["rollouts"]["stages"][0]["overall"]["n"] == 72


def test_difficulty_needs_the_data_alone(run: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "data_source": name,
            "prompt": [{"role": "user", "content": f"<image>{name}?"}],
            "reward_model": {"style": "rule", "ground_truth": target.to_json()},
            "extra_info": {"split": "train", "index": i},
        }
        for i, (name, target) in enumerate(TARGETS.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows), run / "train.parquet")
    report = json.loads(invoke("difficulty", run, "--json"))
    assert report["rollouts"]["found"] == 48, "of training: validation is other data"
    assert report["frame"] == "qwen3-vl"


def test_an_option_overrides_and_says_so(run: Path) -> None:
    result = CliRunner().invoke(app, ["score", str(run / "rollouts"), "--frame", "original", "--json"])
    report = json.loads(result.stdout)
    assert report["frame"] == "original"
    assert report["saved"]["equal"] < 1.0
    assert "--frame original" in result.stderr
    assert str(run / RUN_FILE) in result.stderr


# --- without a record ------------------------------------------------------------------------------------------------


def test_without_a_record_the_dump_tells(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    for file in run.rglob(RUN_FILE):
        file.unlink()
    result = CliRunner().invoke(app, ["score", str(run / "validation"), "--json"])
    report = json.loads(result.stdout)
    assert report["saved"]["equal"] == 1.0, "frame by the mean IoU, stage by the rows"
    assert "assumed" in result.stderr
    trained = json.loads(invoke("score", run / "rollouts" / f"{STEPS}.jsonl", "--json"))
    assert trained["saved"]["equal"] == 1.0, "frame and stage by the rewards"


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_record_holds_what_judges(tmp_path: Path) -> None:
    manager_of(
        config_of(tmp_path, routes={"task": {"counting": "counting-mra"}}, total_steps=7, weights={"recall": 3.0})
    )
    start = read_run(tmp_path / RUN_FILE).last
    assert (start.total_steps, start.n_steps, start.frame, start.max_tokens) == (7, STEPS, "qwen3-vl", 400)
    assert [preset["name"] for preset in start.presets] == ["visionr1", "counting-mra"]
    assert start.presets[0]["criteria"]["recall"]["weight"] == 3.0
    assert start.by_task == {"counting": 1}
    assert start.train_files == [str(tmp_path / "train.parquet")]
    assert start.versions.keys() >= {"verl", "verl-visionr1", "transformers"}
    judging = start.judging()
    assert judging.preset.weights["recall"] == 3.0
    assert judging.moment.run is not None


PLACES = {
    "a recipe": ({"checkpoint_dir": "/r/checkpoints", "validation_dir": "/r/validation"}, ["/r"]),
    "checkpoints alone": ({"checkpoint_dir": "/r/checkpoints"}, ["/r"]),
    "verl's default": ({"checkpoint_dir": "/w/checkpoints/p/e"}, ["/w/checkpoints/p/e"]),
    "dumps elsewhere": (
        {"checkpoint_dir": "/w/checkpoints/p/e", "rollout_dir": "/d/a", "validation_dir": "/d/b"},
        ["/w/checkpoints/p/e", "/d/a", "/d/b"],
    ),
}


@pytest.mark.parametrize(("folders", "places"), PLACES.values(), ids=PLACES)
def test_where_the_record_is_written(folders: dict[str, str], places: list[str]) -> None:
    start = Start(presets=[], frame="unit", **folders)
    assert [str(file.parent) for file in run_files(start)] == places
    assert str(run_directory(start)) == places[0]


def test_a_record_is_found_from_anywhere_in_the_run(tmp_path: Path) -> None:
    folders = {"checkpoint_dir": str(tmp_path / "r" / "checkpoints"), "rollout_dir": str(tmp_path / "r" / "rollouts")}
    (file,) = write_run(Start(presets=[{"name": "a"}], frame="unit", **folders))
    (tmp_path / "r" / "rollouts").mkdir()
    for path in (tmp_path / "r", tmp_path / "r" / "rollouts", tmp_path / "r" / "rollouts" / "1.jsonl"):
        assert find_run(path) == file
    assert find_run(tmp_path) is None
    for model in ("", "checkpoints", "checkpoints/global_step_3", "checkpoints/global_step_3/actor/huggingface"):
        (tmp_path / "r" / model).mkdir(parents=True, exist_ok=True)
        found = start_of_model(tmp_path / "r" / model)
        assert found is not None
        assert found[0] == file
    assert start_of_model(tmp_path) is None
    (tmp_path / "r" / "other").mkdir()
    assert find_run(tmp_path / "r" / "other") is None, "a folder that the run did not write"


def test_starts_of_a_resumed_run_are_kept_where_they_differ(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoints")
    first = Start(presets=[{"name": "a"}], frame="unit", total_steps=10, checkpoint_dir=folder)
    resumed = msgspec.structs.replace(first, from_step=6)
    other = msgspec.structs.replace(resumed, total_steps=20)
    for start, steps in ((first, [1]), (resumed, [1]), (other, [1, 6]), (first, [1])):
        (file,) = write_run(start)
        assert [one.from_step for one in read_run(file).starts] == steps


def test_a_record_that_cannot_be_read_is_named_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = Start(presets=[{"name": "a"}], frame="unit", from_step=6, checkpoint_dir=str(tmp_path / "checkpoints"))
    (tmp_path / RUN_FILE).write_text('{"version": 1, "sta')
    assert [read_run(file).starts for file in write_run(start)] == [[start]]
    assert str(tmp_path / RUN_FILE) in caplog.text


def test_rows_of_a_resumed_run_are_judged_by_their_own_start(tmp_path: Path) -> None:
    first = read_run(_record(tmp_path / "a", total_steps=10)).last
    later = read_run(_record(tmp_path / "b", total_steps=10, weights={"format": 0.0})).last
    run = Run(starts=[first, msgspec.structs.replace(later, from_step=6)])
    judging = run.judging()
    assert judging.preset.weights["format"] == 0.0
    assert [last for last, _ in judging.earlier] == [5]
    assert judging.earlier[0][1].preset.weights["format"] == 1.0


def _record(folder: Path, **settings: Any) -> Path:
    manager_of(config_of(folder, **settings))
    return folder / RUN_FILE


@pytest.mark.parametrize("text", ["", "{}", '{"version":9,"starts":[]}', '{"version":1,"starts":[]}'])
def test_a_file_that_is_no_record_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / RUN_FILE
    file.write_text(text)
    with pytest.raises(RowsError) as caught:
        read_run(file)
    assert str(caught.value).startswith(str(file))


def test_the_callback_writes_the_pinned_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_visionr1.plugin.config import settings_of
    from verl_visionr1.plugin.run_record import write_record

    config = config_of(tmp_path)
    write_record(config, settings_of(config), from_step=7, total_steps=30)
    start = read_run(tmp_path / RUN_FILE).last
    assert (start.from_step, start.total_steps, start.n_steps) == (7, 30, STEPS)


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    manager_of(config_of(tmp_path / "file" / "run"))
    assert RUN_FILE in caplog.text
