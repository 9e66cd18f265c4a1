"""`visionr1 gallery`: what stands in the page, against scoring, verl's advantages and counts by hand."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_pages import JUDGING, SAID, STEPS, dump, line_of, made
from gallery_runs import Run, make_run
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1 import FRAMES, PRESETS, Target, score
from verl_visionr1.files import RowsError
from verl_visionr1.rewards import ResponseContext
from verl_visionr1.rollouts.judging import Judging, Moment
from verl_visionr1.rollouts.places import dumps_of
from verl_visionr1.schedule import progress_at
from verl_visionr1.tools.explain.explanation import explain
from verl_visionr1.tools.gallery.census import EPSILON, LEAST_LOSS, chosen, numbers_of
from verl_visionr1.tools.gallery.payload import script_json
from verl_visionr1.tools.gallery.settings import Written
from verl_visionr1.tools.gallery.texts import HEAD, TAIL, Shown, in_utf16


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), n_prompts=12, n_samples=4, n_steps=STEPS, n_validated=3)


@pytest.fixture(scope="module")
def gallery(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, dict[str, Any], list[str]]:
    return made([run.folder], tmp_path_factory.mktemp("page") / "g.html", data=(run.data,))


def test_every_rollout_is_there_as_scoring_judges_it(run: Run, gallery: tuple[Written, dict[str, Any], Any]) -> None:
    written, payload, _ = gallery
    assert written.n_rollouts == len(payload["samples"]) == run.n_rollouts
    for group in payload["groups"]:
        for sample in payload["samples"][group["first"] : group["first"] + group["n"]]:
            row = line_of(payload, sample)
            is_validation = payload["dumps"][group["dump"]] == "validation"
            progress = 1.0 if is_validation else progress_at(row["step"], STEPS)
            judged = score(row["output"], Target.from_json(row["gts"]), progress=progress)
            names = payload["presets"][payload["prompts"][group["prompt"]]["preset"]]["metrics"]
            assert dict(zip(names, sample["metrics"], strict=True)) == pytest.approx(judged.metrics, abs=1e-5)
            assert sample["value"] == pytest.approx(judged.value, abs=1e-5)
            assert sample["saved"] == pytest.approx(row["score"], abs=1e-5)
            assert sample["text"] == row["output"]
            assert sample["quality"] == pytest.approx(judged.metrics["f1_50"], abs=1e-5)
            assert not sample["differs"]
            assert group["step"] == row["step"]


def test_boxes_are_counted_as_explain_counts_them(gallery: tuple[Written, dict[str, Any], Any]) -> None:
    payload = gallery[1]
    kinds = [kind["name"] for kind in payload["kinds"]]
    seen: set[str] = set()
    for sample in payload["samples"][::3]:
        row = line_of(payload, sample)
        progress = 1.0 if "/validation/" in payload["files"][sample["file"]] else progress_at(row["step"], STEPS)
        target = Target.from_json(row["gts"])
        told = explain(row["output"], target, JUDGING.preset, ResponseContext(JUDGING.frame), progress=progress)
        assert [kinds[prediction[0]] for prediction in sample["predictions"]] == [
            v.counted_as for v in told.predictions
        ]
        assert [kinds[kind] for kind in sample["objects"]] == [fate.counted_as for fate in told.objects]
        assert sample["why"] == str(told.cause)
        assert payload["causes"][sample["cause"]] == told.cause.cause
        seen.update(kinds[prediction[0]] for prediction in sample["predictions"])
    assert {"match", "below threshold", "wrong label", "duplicate", "junk"} <= seen


def test_a_prediction_knows_its_piece_of_the_text(gallery: tuple[Written, dict[str, Any], Any]) -> None:
    n_found = 0
    for sample in gallery[1]["samples"]:
        for _, label, place, _, _, _, start, end in sample["predictions"]:
            item = json.loads(sample["text"][start:end])
            assert (item["bbox_2d"], item["label"]) == (pytest.approx(place), label)
            n_found += 1
    assert n_found > 100


def test_advantages_are_of_saved_rewards(gallery: tuple[Written, dict[str, Any], Any]) -> None:
    payload = gallery[1]
    for group in payload["groups"]:
        samples = payload["samples"][group["first"] : group["first"] + group["n"]]
        rewards = np.array([sample["saved"] for sample in samples])
        assert group["is_saved"]
        if len(samples) == 1:
            assert samples[0]["advantage"] is None
            continue
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + EPSILON)
        assert [sample["advantage"] for sample in samples] == pytest.approx(expected, abs=2e-3), "rounded rewards"


def verls_advantages() -> Callable[..., Any]:
    """`compute_grpo_outcome_advantage` of the installed verl, cut out of its file: to import it takes half a minute."""
    import torch

    spec = importlib.util.find_spec("verl")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "trainer/ppo/core_algos.py").read_text()
    name = "compute_grpo_outcome_advantage"
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    function.decorator_list = []
    names: dict[str, Any] = {"torch": torch, "np": np, "defaultdict": defaultdict}
    exec(f"from __future__ import annotations\n{ast.unparse(function)}", names)
    return names[name]


@pytest.mark.verl
def test_advantages_are_those_of_verl() -> None:
    import torch

    rewards = [0.1, 0.9, 0.25, 1.0, 0.5, 0.5, 0.5]
    some, others = rewards[:4], rewards[4:]
    found = [*numbers_of(some, some, some).advantages, *numbers_of(others, others, others).advantages]
    told, _ = verls_advantages()(torch.tensor(rewards)[:, None], torch.ones(7, 1), np.array(["a"] * 4 + ["b"] * 3))
    assert found == pytest.approx(told[:, 0].tolist(), abs=1e-4)


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


@given(st.recursive(st.text() | st.characters(categories=["Cs"]), st.lists))
def test_nothing_leaves_the_script_element(value: Any) -> None:
    text = script_json(value)
    assert "<" not in text
    assert text.isascii()
    assert json.loads(text) == json.loads(json.dumps(value)), "joined halves of surrogate pairs are one character"


@given(st.text(st.sampled_from("aé\u2028😀\U0010ffff\n")), st.data())
def test_places_count_as_browsers_count(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    ((first, last),) = in_utf16(text, [(start, end)])
    assert text.encode("utf-16-le")[2 * first : 2 * last].decode("utf-16-le") == text[start:end]


@given(st.integers(0, 3000), st.data())
def test_a_long_text_keeps_its_ends(n_more: int, data: st.DataObject) -> None:
    text = "".join(chr(97 + i % 26) for i in range(HEAD + TAIL + n_more))
    shown = Shown.of(text)
    assert (len(shown.text), shown.n_cut) == (HEAD + TAIL, n_more)
    start = data.draw(st.integers(0, len(text)))
    end = min(start + data.draw(st.integers(0, 50)), len(text))
    place = shown.place((start, end))
    is_kept = end <= HEAD or start >= HEAD + n_more
    assert (shown.text[place[0] : place[1]] == text[start:end]) if is_kept or not n_more else place == (-1, -1)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=20), st.integers(1, 30))
@pytest.mark.parametrize("sample", ["even", "last"])
def test_whole_groups_are_shown_up_to_the_limit(sample: Any, sizes: list[tuple[int, int]], limit: int) -> None:
    ns, steps = np.array(sizes).T
    kept = chosen(ns, steps, limit, sample)
    assert kept == sorted(kept)
    n = ns[kept].sum()
    assert n <= limit or len(kept) == 1
    left_out = [i for i in range(len(ns)) if i not in kept]
    assert (n + ns[left_out] > limit).all(), "no group that still fits is left out"
    if sample == "last" and len(set(ns)) == 1 and left_out:
        assert steps[kept].min() >= steps[left_out].max()


def test_even_is_spread_over_the_steps() -> None:
    kept = chosen(np.ones(1000, dtype=int), np.arange(1000), 10, "even")
    assert np.diff([0, *kept, 999]).max() <= 1000 / 5


def test_a_run_stands_for_its_dumps(run: Run, tmp_path: Path) -> None:
    assert [found.name for found in dumps_of([run.folder])] == ["rollouts", "validation"], "its parquet is no dump"
    files = dumps_of([run.folder])[0].files
    assert [file.name for file in files] == [f"{step}.jsonl" for step in range(1, STEPS + 1)]
    other = dump(tmp_path / "b" / "rollouts" / "1.jsonl", {}).parent
    names = [found.name for found in dumps_of([run.folder, other])]
    assert names[:2] == [f"{run.folder.name}/rollouts", f"{run.folder.name}/validation"]
    assert names[2].endswith("b/rollouts")
    assert len(dumps_of([other, other])) == 1
    with pytest.raises(RowsError, match="no such file"):
        dumps_of([tmp_path / "nothing"])
    (tmp_path / "bare" / "metrics").mkdir(parents=True)
    with pytest.raises(RowsError, match="validation_data_dir"):
        dumps_of([tmp_path / "bare"])


def test_curves_are_means_of_all_rollouts_whatever_is_shown(run: Run, tmp_path: Path) -> None:
    written, payload, _ = made([run.folder], tmp_path / "g.html", limit=8, has_causes=False)
    assert written.n_rollouts <= 8 < written.n_all == run.n_rollouts
    lines = {panel["name"]: panel["lines"] for panel in payload["panels"]}
    by_step: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for file in sorted((run.folder / "rollouts").glob("*.jsonl")):
        for row in map(json.loads, file.read_text().splitlines()):
            by_step.setdefault((row["data_source"], row["step"]), []).append(row)
    n_compared = 0
    for line in lines["f1_50"] + lines["saved reward"]:
        for step, value in zip(line["steps"], line["values"], strict=True):
            if line["dump"] == "rollouts":
                rows = by_step[line["source"], step]
                saved = [row["score"] for row in rows]
                f1 = [score(row["output"], Target.from_json(row["gts"])).metrics["f1_50"] for row in rows]
                assert value == pytest.approx(np.mean(saved if line in lines["saved reward"] else f1), abs=1e-4)
                n_compared += 1
    assert n_compared >= 2 * STEPS
    (logged,) = [line for line in lines["match_iou"] if line["dump"] == "logged"]
    assert logged["values"] == [0.5, 0.5, 0.75, 0.75]


def test_a_source_that_drifts_is_named(tmp_path: Path) -> None:
    miss = SAID.replace("200, 200", "160, 160")
    rows = [
        {"step": step, "output": SAID if step < 3 else miss, "score": step / 10, "uid": f"{step}"}
        for step in range(1, 7)
    ]
    steady = [{**row, "output": SAID, "data_source": "steady", "uid": f"s{row['step']}"} for row in rows]
    _, payload, _ = made([dump(tmp_path / "d" / "1.jsonl", *rows, *steady)], tmp_path / "g.html")
    (drift,) = payload["drifts"]
    assert (drift["source"], drift["quality"], drift["measure"]) == ("detection", "f1_50", [1.0, 0.0])
    assert drift["reward"] == pytest.approx([0.15, 0.55])


ODD: dict[str, dict[str, Any]] = {
    "nothing": {"output": ""},
    "huge numbers": {"output": '[{"bbox_2d": [-1e308, 0, 1e308, 9], "label": "cat"}]'},
    "a long text": {"output": "x" * 1_000_000 + SAID},
    "many boxes": {"output": SAID * 2000},
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


@pytest.mark.parametrize("name", ODD)
def test_odd_rows_are_shown(name: str, tmp_path: Path) -> None:
    written, payload, _ = made(
        [dump(tmp_path / "1.jsonl", ODD[name])], tmp_path / "g.html", judging=replace(JUDGING, moment=Moment())
    )
    assert (written.n_rollouts, len(payload["samples"])) == (1, 1)
    assert written.n_bytes < 300_000


def test_rows_that_cannot_be_used_are_counted_or_refused(tmp_path: Path) -> None:
    path = dump(tmp_path / "1.jsonl", {}, {"gts": "no truth"}, {"output": 3}, {"step": None, "uid": "x"})
    with open(path, "a") as file:
        file.write('{"output": "cut o')
    written, _, _ = made([path], tmp_path / "g.html")
    assert written.n_rollouts == 1
    assert written.notes[0].startswith("4 rows could not be read")
    with pytest.raises(ValueError, match=r"1\.jsonl: line 2: ground truth"):
        made([path], tmp_path / "g.html", on_error="fail")
    empty = tmp_path / "2.jsonl"
    empty.write_text("{}\n")
    assert made([empty], tmp_path / "g.html")[0].n_rollouts == 0, "a page without rollouts, no exception"


def test_frames_that_need_a_size_skip_what_has_none(tmp_path: Path) -> None:
    wide = Target(task="detection", size_wh=(100_000, 10), boxes_xyxy=[[1, 1, 9, 9]], labels=["cat"])
    path = dump(tmp_path / "1.jsonl", {}, {"gts": wide.to_json(), "uid": "wide"})
    written, _, _ = made([path], tmp_path / "g.html", judging=Judging(PRESETS["visionr1"], FRAMES["qwen2.5-vl"]))
    assert written.n_rollouts == 1
    assert "1.jsonl:2" in written.notes[0]


def test_the_policy_lets_only_the_pages_own_script_and_style_in(run: Run, tmp_path: Path) -> None:
    made([run.folder], tmp_path / "g.html", has_causes=False)
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
