"""`visionr1 gallery`: what stands in the page, against scoring, verl's advantages and counts by hand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_pages import JUDGING, STEPS, dump, line_of, made
from gallery_runs import Run
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1 import FRAMES, PRESETS, Target, score
from verl_visionr1.files import RowsError
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.rollouts.judging import Judging, Moment
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.schedule import progress_at
from verl_visionr1.tools.explain.explanation import explain
from verl_visionr1.tools.gallery.census import EPSILON, LEAST_LOSS, choose_groups, numbers_of
from verl_visionr1.tools.gallery.page import Written, script_json
from verl_visionr1.tools.gallery.texts import HEAD, TAIL, shortened

Made = tuple[Written, dict[str, Any], list[str]]


@pytest.fixture(scope="module")
def gallery(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made([run.folder], tmp_path_factory.mktemp("page") / "g.html", data=(run.data,))


def test_every_rollout_is_there_as_scoring_and_explain_judge_it(run: Run, gallery: Made) -> None:
    written, payload, _ = gallery
    assert written.n_rollouts == len(payload["samples"]) == run.n_rollouts
    kinds, seen = [kind["name"] for kind in payload["kinds"]], set[str]()
    for group in payload["groups"]:
        names = payload["presets"][payload["prompts"][group["prompt"]]["preset"]]["metrics"]
        for sample in payload["samples"][group["first"] : group["first"] + group["n"]]:
            row = line_of(payload, sample)
            is_validation = payload["dumps"][group["dump"]] == "validation"
            progress = 1.0 if is_validation else progress_at(row["step"], STEPS)
            target = Target.from_json(row["gts"])
            judged = score(row["output"], target, progress=progress)
            assert dict(zip(names, sample["metrics"], strict=True)) == pytest.approx(judged.metrics, abs=1e-5)
            assert (sample["value"], sample["saved"]) == pytest.approx((judged.value, row["score"]), abs=1e-5)
            assert sample["quality"] == pytest.approx(judged.metrics["f1_50"], abs=1e-5)
            assert (sample["text"], sample["differs"], group["step"]) == (row["output"], False, row["step"])
            told = explain(row["output"], target, JUDGING.preset, ResponseContext(JUDGING.frame), progress=progress)
            counted = [kinds[prediction[0]] for prediction in sample["predictions"]]
            assert counted == [verdict.counted_as for verdict in told.predictions]
            assert [kinds[kind] for kind in sample["objects"]] == [fate.counted_as for fate in told.objects]
            assert (sample["why"], payload["causes"][sample["cause"]]) == (str(told.cause), told.cause.cause)
            seen.update(counted)
    assert {"match", "below threshold", "wrong label", "duplicate", "junk"} <= seen


def test_advantages_are_of_saved_rewards(gallery: Made) -> None:
    for group in gallery[1]["groups"]:
        samples = gallery[1]["samples"][group["first"] : group["first"] + group["n"]]
        rewards = np.array([sample["saved"] for sample in samples])
        assert group["is_saved"]
        if len(samples) == 1:
            assert samples[0]["advantage"] is None
            continue
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)
        assert [sample["advantage"] for sample in samples] == pytest.approx(expected, abs=2e-3), "rounded rewards"


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1)), min_size=1, max_size=8))
def test_more_reward_and_less_quality(pairs: list[tuple[float, float]]) -> None:
    rewards, qualities = [reward for reward, _ in pairs], [quality for _, quality in pairs]
    losses = {i: max((q - qualities[i] for r, q in pairs if r < rewards[i]), default=0.0) for i in range(len(pairs))}
    found = numbers_of([None] * len(pairs), rewards, qualities)
    misled = [i for i, loss in losses.items() if loss >= LEAST_LOSS]
    assert found.misled == tuple(misled)
    assert found.against == pytest.approx(max((losses[i] for i in misled), default=0.0))


def test_a_group_of_one_reward_is_flat_and_has_no_advantage() -> None:
    flat = numbers_of([0.7, 0.7 + 1e-12], [0.7, 0.2], [1.0, 0.0])
    assert (flat.is_flat, flat.advantages, flat.against) == (True, (0.0, 0.0), 0.0)
    assert not numbers_of([0.5], [0.5], [1.0]).is_flat
    assert not numbers_of([0.5, None], [0.1, 0.2], [1.0, 1.0]).is_saved, "rewards of two kinds are not compared"


def test_rewards_that_a_run_gave_otherwise_are_told(run: Run, tmp_path: Path) -> None:
    first = replace(JUDGING, moment=Moment(progress=0.0))
    _, payload, _ = made([run.folder], tmp_path / "g.html", judging=first, has_causes=False)
    for sample in payload["samples"]:
        row = line_of(payload, sample)
        judged = score(row["output"], Target.from_json(row["gts"]), progress=0.0)
        assert sample["differs"] == (abs(row["score"] - judged.value) > 1e-6)
        assert sample["value"] == pytest.approx(judged.value, abs=1e-5)
        assert sample["reward"] == sample["saved"]
    assert 0 < sum(sample["differs"] for sample in payload["samples"]) < len(payload["samples"])
    assert any("mean reward" in note for note in payload["notes"])


@given(st.recursive(st.text(max_size=20) | st.characters(categories=["Cs"]), st.lists, max_leaves=8))
def test_nothing_leaves_the_script_element(value: Any) -> None:
    text = script_json(value)
    assert "<" not in text
    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(value)), "joined halves of surrogate pairs are one character"


@pytest.mark.parametrize("n_more", [0, 7])
def test_a_long_text_keeps_its_ends(n_more: int) -> None:
    text = ("abcdefghijklmnopqrstuvwxyz" * 900)[: HEAD + TAIL + n_more]
    shown = shortened(text)
    assert (shown[:HEAD], shown[-TAIL:], shown == text) == (text[:HEAD], text[-TAIL:], n_more == 0)
    assert n_more == 0 or f"{n_more} characters" in shown


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(1, 30))
def test_whole_groups_are_shown_up_to_the_limit(sizes: list[int], limit: int) -> None:
    ns = np.array(sizes)
    kept = choose_groups(ns, limit)
    assert kept == sorted(kept)
    n = ns[kept].sum()
    assert n <= limit or len(kept) == 1
    assert all(n + ns[i] > limit for i in range(len(ns)) if i not in kept), "no group that still fits is left out"


def test_shown_groups_are_spread_over_the_steps() -> None:
    assert np.diff([0, *choose_groups(np.ones(1000, dtype=int), 10), 999]).max() <= 1000 / 5


def test_a_run_stands_for_its_dumps(run: Run, tmp_path: Path) -> None:
    assert [found.name for found in dumps_of([run.folder])] == ["rollouts", "validation"], "its parquet is no dump"
    assert [file.name for file in dumps_of([run.folder])[0].files] == [f"{step}.jsonl" for step in range(1, STEPS + 1)]
    other = dump(tmp_path / "b" / "rollouts" / "1.jsonl", {}).parent
    names = [found.name for found in dumps_of([run.folder, other])]
    assert names[:2] == [f"{run.folder.name}/rollouts", f"{run.folder.name}/validation"]
    assert names[2].endswith("b/rollouts")
    assert len(dumps_of([other, other])) == 1
    (tmp_path / "bare" / "metrics").mkdir(parents=True)
    for folder, message in (("nothing", "no such file"), ("bare", "validation_data_dir")):
        with pytest.raises(RowsError, match=message):
            dumps_of([tmp_path / folder])


def test_curves_are_means_of_all_rollouts_whatever_is_shown(run: Run, tmp_path: Path) -> None:
    written, payload, _ = made([run.folder], tmp_path / "g.html", limit=8, has_causes=False)
    assert written.n_rollouts <= 8 < written.n_all == run.n_rollouts
    lines = {panel["name"]: panel["lines"] for panel in payload["panels"]}
    by_step: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for file in sorted((run.folder / "rollouts").glob("*.jsonl")):
        for row in map(json.loads, file.read_text().splitlines()):
            by_step.setdefault((row["data_source"], row["step"]), []).append(row)
    n_compared = 0
    for line in [line for line in lines["f1_50"] + lines["saved reward"] if line["dump"] == "rollouts"]:
        for step, value in zip(line["steps"], line["values"], strict=True):
            rows = by_step[line["source"], step]
            saved = [row["score"] for row in rows]
            f1 = [score(row["output"], Target.from_json(row["gts"])).metrics["f1_50"] for row in rows]
            assert value == pytest.approx(np.mean(saved if line in lines["saved reward"] else f1), abs=1e-4)
            n_compared += 1
    assert n_compared >= 2 * STEPS
    (logged,) = [line for line in lines["match_iou"] if line["dump"] == "logged"]
    assert logged["values"] == [0.5, 0.5, 0.75, 0.75]


ODD: dict[str, dict[str, Any]] = {
    "nothing": {"output": ""},
    "huge numbers": {"output": '[{"bbox_2d": [-1e308, 0, 1e308, 9], "label": "cat"}]'},
    "a long text": {"output": "x" * 1_000_000},
    "many boxes": {"output": '[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]' * 2000},
    "half a pair": {"output": "\ud800 \udfff", "data_source": "\udc80"},
    "a step that is no number": {"step": "one"},
    "a step of infinity": {"step": float("inf")},
    "a reward of nan": {"score": float("nan")},
    "no image": {"gts": Target(task="text", answer="a dog").to_json()},
    "counting": {"gts": Target(task="counting", size_wh=(9, 9), count=3).to_json(), "output": "3"},
    "points": {
        "gts": Target(task="pointing", size_wh=(90, 90), points_xy=[[9, 9]]).to_json(),
        "output": '[{"point_2d": [9, 9]}]',
    },
    "a crowd": {
        "gts": Target(task="detection", size_wh=(9, 9), categories=["cat"], ignore_xyxy=[[0, 0, 5, 5]]).to_json()
    },
    "a name that no file has": {"image": "\0" + "x" * 5000},
    "a prompt of turns": {"input": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hm?"}]}]},
}


def test_odd_rows_are_shown(tmp_path: Path) -> None:
    path = dump(tmp_path / "1.jsonl", *({"uid": name} | row for name, row in ODD.items()))
    judging = replace(JUDGING, moment=Moment())
    written, payload, _ = made([path], tmp_path / "g.html", judging=judging)
    assert (written.n_rollouts, len(payload["samples"])) == (len(ODD), len(ODD)), written.notes
    assert written.n_bytes < 500_000


def test_rows_that_cannot_be_used_are_counted_or_refused(tmp_path: Path) -> None:
    path = dump(tmp_path / "1.jsonl", {}, {"gts": "no truth"}, {"output": 3}, {"step": None, "uid": "x"})
    with open(path, "a") as file:
        file.write('{"output": "cut o')
    written, _, _ = made([path], tmp_path / "g.html")
    assert written.n_rollouts == 1
    assert written.notes[0].startswith("4 rows could not be read")
    with pytest.raises(ValueError, match=r"1\.jsonl: line 2: ground truth"):
        made([path], tmp_path / "g.html", on_error="fail")
    (tmp_path / "2.jsonl").write_text("{}\n")
    assert made([tmp_path / "2.jsonl"], tmp_path / "g.html")[0].n_rollouts == 0, "a page without rollouts, no exception"


def test_frames_that_need_a_size_skip_what_has_none(tmp_path: Path) -> None:
    wide = Target(task="detection", size_wh=(100_000, 10), boxes_xyxy=[[1, 1, 9, 9]], labels=["cat"])
    path = dump(tmp_path / "1.jsonl", {}, {"gts": wide.to_json(), "uid": "wide"})
    written, _, _ = made([path], tmp_path / "g.html", judging=Judging(PRESETS["visionr1"], FRAMES["qwen2.5-vl"]))
    assert written.n_rollouts == 1
    assert "1.jsonl:2" in written.notes[0]


def test_the_policy_lets_only_the_pages_own_script_and_style_in(tmp_path: Path) -> None:
    made([dump(tmp_path / "1.jsonl", {})], tmp_path / "g.html")
    html = (tmp_path / "g.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html), "nothing comes from elsewhere"
    assert html.lower().count("<script") == 3
