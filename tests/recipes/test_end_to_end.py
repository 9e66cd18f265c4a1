"""Real training on CPU: verl's own entry point, Ray, FSDP2 and vLLM; minutes, one run at a time.

The stock run sets nothing of this project but the reward manager's name (and the CPU platform), on a tiny Qwen2.5-VL,
whose coordinates are pixels of the processed image; it trains on rows of every converter, on two nodes. The
recipe run is the recipe itself, shortened, killed in the middle and started again. Two recipes of large models run on
the tiny one: over mixed tasks, each with its own reward, with gated thresholds; and with options.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scene_sets import FORMATS
from scene_sets.base import pictures
from trained_checkpoints import assert_checkpoint_evaluates_as_validated

from verl_visionr1 import PRESETS, Score, Target, score
from verl_visionr1.answers import instruction
from verl_visionr1.criteria import Thresholds
from verl_visionr1.processed import processed_size
from verl_visionr1.rewards import TASK_PRESETS
from verl_visionr1.rewards.composition import CriterionSettings, PresetSettings
from verl_visionr1.rewards.presets import build_preset
from verl_visionr1.rows import read_rows
from verl_visionr1.schedule import progress_at, staged
from verl_visionr1.targets import TASKS
from verl_visionr1.tools.runs.steps import read_steps

pytestmark = [pytest.mark.verl, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SIZE_WH = (150, 100)
CATEGORY_IDS = [f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "square")]
ROLLOUT_N = 2


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=600, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def make_rows(folder: Path) -> tuple[list[Path], Path]:
    """Training files, one of each data set in `scene_sets` with a row or a few; and one of validation."""
    of_each_set = {form.name.split()[0]: form for form in FORMATS}
    words = [form for form in FORMATS if form.name == "records answers"]
    files = []
    for number, form in enumerate([*of_each_set.values(), *words]):
        arguments = form.write(pictures(), folder / str(number))
        report = form.convert(*arguments, folder / f"{number:02}.parquet", replace(form.options, limit=1))
        files.append(report.written.file)
    width, height = SIZE_WH
    scenes = ROOT / "data_preprocess" / "scenes.py"
    run(sys.executable, scenes, folder / "scenes", "--train", 0, "--val", 8, "--size", width, height)
    run(
        *(
            sys.executable,
            ROOT / "data_preprocess" / "coco.py",
            folder / "scenes" / "annotations" / "instances_val.json",
        ),
        *(folder / "scenes" / "val", folder / "val.parquet", "--task", "grounding", "--split", "val", "--limit", 16),
    )
    return files, folder / "val.parquet"


def teach_to_write_boxes(model_dir: Path) -> None:
    """A few supervised steps, so that a random model writes boxes (anywhere) and rewards differ."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32).train()
    processor = AutoProcessor.from_pretrained(model_dir)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction("grounding", ["x"])}]}
    ]
    template = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompts = [template.replace("every x in", f"every {category} in") for category in CATEGORY_IDS]
    for _ in range(100):
        x1, y1, w, h = rng.integers(10, 70, (4, 8))
        boxes = np.stack([x1, y1, x1 + w, y1 + h], axis=1).tolist()
        answers = [f'[{{"bbox_2d": {box}, "label": "red circle"}}]<|im_end|>' for box in boxes]
        asked = [prompts[i] for i in rng.integers(len(prompts), size=8)]
        images = [Image.fromarray(rng.integers(0, 255, (*SIZE_WH[::-1], 3), dtype=np.uint8)) for _ in boxes]
        texts = [question + answer for question, answer in zip(asked, answers, strict=True)]
        batch = processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="right")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        starts = (labels == processor.tokenizer.convert_tokens_to_ids("<|im_start|>")).int().cumsum(1) == 2
        loss = model(**batch, labels=labels.masked_fill(~starts, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(model_dir)


@pytest.fixture(scope="module")
def stock_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the unmodified trainer with `reward.reward_manager.name=visionr1`, rollouts dumped, on two nodes."""
    folder = tmp_path_factory.mktemp("stock")
    train, val = make_rows(folder)
    batch = sum(pq.read_metadata(file).num_rows for file in train) // 2
    model = folder / "model"
    run(sys.executable, ROOT / "recipes" / "tiny" / "make_models.py", "random-qwen2-5-vl", model)
    teach_to_write_boxes(model)
    log = run(
        *("bash", ROOT / "recipes" / "cluster" / "two_nodes_cpu.sh"),
        *(sys.executable, "-m", "verl.trainer.main_ppo", "+visionr1@_global_=[cpu,cluster]"),
        *("reward.reward_manager.name=visionr1", "trainer.nnodes=2", "trainer.n_gpus_per_node=1"),
        *(f"data.train_files=[{','.join(map(str, train))}]", f"data.val_files={val}"),
        *(f"actor_rollout_ref.model.path={model}", f"data.train_batch_size={batch}"),
        *("data.max_prompt_length=420", "data.max_response_length=64", "algorithm.adv_estimator=grpo"),
        *(f"actor_rollout_ref.actor.ppo_mini_batch_size={batch}", f"actor_rollout_ref.rollout.n={ROLLOUT_N}"),
        *(f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={batch}", "trainer.total_training_steps=2"),
        *(f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={batch}", "trainer.val_before_train=True"),
        *(f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={batch}", "trainer.test_freq=2"),
        *("trainer.save_freq=-1", "trainer.logger=[console]", "trainer.resume_mode=disable"),
        *(f"trainer.default_local_dir={folder}/checkpoints",),
        *(f"trainer.rollout_data_dir={folder}/rollouts", f"trainer.validation_data_dir={folder}/validation"),
        VERL_PLATFORM="cpu",
    )
    (folder / "log").write_text(log)
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def expected(row: dict, progress: float) -> Score:
    target = Target.from_json(row["gts"])
    processed_wh = processed_size(target.size_wh, "qwen2.5-vl")
    preset = PRESETS[TASK_PRESETS[target.task]]
    return score(row["output"], target, preset=preset, frame="qwen2.5-vl", processed_wh=processed_wh, progress=progress)


def test_stock_training_has_a_worker_on_each_node(stock_run: Path) -> None:
    """Their weights, and so their vLLM servers' answers, come from one process group over both nodes."""
    found = re.findall(r"visionr1: training worker (\d) of 2 on node ([\d.]+),", (stock_run / "log").read_text())
    assert len(found) == 2
    assert {rank for rank, _ in found} == {"0", "1"}
    assert len({node for _, node in found}) == 2, "both on one node"


def test_stock_training_over_all_converters_scores_like_the_facade(stock_run: Path) -> None:
    """Files of all converters load together; in two steps each row is asked once."""
    rows = rows_of(stock_run / "rollouts")
    files = sorted(stock_run.glob("[0-9][0-9].parquet"))
    asked = Counter(row["reward_model"]["ground_truth"] for file in files for row in read_rows(file))
    left_out = asked - Counter(row["gts"] for row in rows)
    assert left_out.total() <= asked.total() % 2  # verl drops what fills no batch
    assert len(rows) == ROLLOUT_N * (asked.total() - asked.total() % 2)
    assert {Target.from_json(row["gts"]).task for row in rows} == set(TASKS)
    for row in rows:
        assert row["score"] == pytest.approx(expected(row, progress_at(row["step"], 2)).value, abs=1e-6)
    assert len({row["score"] for row in rows}) > 1, "rewards that are all alike would prove nothing"


def test_stock_validation_scores_like_the_facade(stock_run: Path) -> None:
    rows = rows_of(stock_run / "validation")
    assert rows
    for row in rows:
        result = expected(row, 1.0)  # validation is judged by the final stage
        assert row["score"] == pytest.approx(result.value, abs=1e-6)
        assert {name: row[name] for name in PRESETS["visionr1"].metrics} == pytest.approx(result.metrics, abs=1e-6)
        assert row["unscored"] == 0.0
    assert len({row["iou_mean"] for row in rows}) > 2, "overlaps that are all alike would prove nothing of the frame"


def assert_the_run_is_known(run_dir: Path, dumps: set[str]) -> None:
    """Every tool gives what the run gave, without an option."""
    reports = json.loads(run("visionr1", "score", run_dir, "--json"))
    reports = reports if "n_rows" not in reports else {next(iter(dumps)): reports}
    assert reports.keys() == dumps
    for report in reports.values():
        assert report["saved"]["equal"] == 1.0
        assert report["saved"]["max_difference"] < 1e-6
    file = sorted((run_dir / "validation").glob("*.jsonl"))[-1]
    first = json.loads(file.read_text().splitlines()[0])
    explained = json.loads(run("visionr1", "explain", file, "--row", 1, "--json"))
    assert explained["value"] == pytest.approx(first["score"], abs=1e-6)
    run("visionr1", "gallery", run_dir, "--out", run_dir / "known.html")
    assert '"differs":true' not in (run_dir / "known.html").read_text()
    run("visionr1", "eval", run_dir, "--out", run_dir / "known", "--resamples", 0)
    rows = [json.loads(line) for line in (run_dir / "known" / "report.rows.jsonl").read_text().splitlines()]
    saved = dict(enumerate((json.loads(line)["score"] for line in file.read_text().splitlines()), 1))
    assert {row["row"]: pytest.approx(row["reward"], abs=1e-6) for row in rows} == saved
    run("visionr1", "report", run_dir)
    run("visionr1", "schedule", run_dir)


def test_the_tools_know_a_stock_run(stock_run: Path) -> None:
    assert_the_run_is_known(stock_run, {"rollouts", "validation"})


RECIPE_STEPS = 6


def start_recipe(run_dir: Path, *words: str, recipe: str = "tiny_visionr1_cpu", **knobs: object) -> subprocess.Popen:
    command = ["bash", ROOT / "recipes" / f"{recipe}.sh", *words]
    small = {"TOTAL_STEPS": RECIPE_STEPS, "SAVE_FREQ": 2, "TEST_FREQ": 6, "TRAIN_BATCH": 8, "ROLLOUT_N": 4}
    small |= {"TRAIN_SCENES": 64, "VAL_SCENES": 16, "RUN_DIR": run_dir, **knobs}
    environment = {**os.environ, **{key: str(value) for key, value in small.items()}}
    log = (run_dir.parent / f"{run_dir.name}.out").open("a")
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def wait_for(condition: object, process: subprocess.Popen, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the recipe ended before its time"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)


def test_recipe_survives_kill_9_and_ends_with_a_report(tmp_path: Path) -> None:
    """Killed after its second checkpoint, the run goes on from there at the same stage; its last is evaluated."""
    run_dir = tmp_path / "run"
    tracker = run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"
    killed = start_recipe(run_dir)
    saved = lambda: tracker.is_file() and tracker.read_text() == "4" and read_steps(run_dir)[-1].number >= 4  # noqa: E731
    wait_for(saved, killed, 600)
    for pid in run_pids(run_dir):
        os.kill(pid, signal.SIGKILL)
    killed.wait(60)
    before = {step.number: step for step in read_steps(run_dir)}

    resumed = start_recipe(run_dir)
    assert resumed.wait(600) == 0, (run_dir.parent / "run.out").read_text()[-6000:]
    after = {step.number: step for step in read_steps(run_dir)}
    assert max(after) == RECIPE_STEPS
    log = (run_dir / "train.log").read_text()
    assert "global_step_4" in log
    stages = [after[step].training("stage") for step in range(1, RECIPE_STEPS + 1)]
    assert stages == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], "the switch comes at half of the steps, and survives the kill"
    assert before[4].training("threshold/match_iou") == after[5].training("threshold/match_iou") == 0.75
    assert (run_dir / "report.png").stat().st_size > 10_000
    output = (run_dir.parent / "run.out").read_text()
    assert "mean IoU" in output
    assert "F1@.5" in output
    assert not run_pids(run_dir), "nothing is left running"
    assert_checkpoint_evaluates_as_validated(run_dir)
    assert_the_run_is_known(run_dir, {"validation"})


def draw_rows(folder: Path, *, train: tuple[str, ...], val: tuple[str, ...]) -> dict[str, str]:
    """Drawn scenes, asked for in Qwen JSON; a file for each task."""
    run(sys.executable, ROOT / "data_preprocess" / "scenes.py", folder, "--train", 32, "--val", 8)
    files = {}
    for split, tasks in {"train": train, "val": val}.items():
        annotations = folder / "annotations" / f"instances_{split}.json"
        files[split] = [folder / f"{split}_{task}.parquet" for task in tasks]
        for task, file in zip(tasks, files[split], strict=True):
            words = ("--task", task, "--split", split, "--count-format", "qwen-json", "--negatives", 0.1)
            run(sys.executable, ROOT / "data_preprocess" / "coco.py", annotations, folder / split, file, *words)
    return {f"{split.upper()}_FILES": f"[{','.join(map(str, paths))}]" for split, paths in files.items()}


@pytest.mark.nightly
def test_mixed_tasks_are_judged_each_by_its_own_reward_and_gates_open(tmp_path: Path) -> None:
    """Detection, grounding and counting rows in a run of the Qwen3-VL recipe; dumped rows are scored again.

    With LoRA and verl's asynchronous trainer; `visionr1 eval` reads the checkpoint, base weights and adapter.
    """
    run_dir = tmp_path / "run"
    process = start_recipe(
        run_dir,
        "++reward.reward_kwargs.visionr1.schedule.gate={metric:accuracy,window:1,bar:0.05,patience:1}",
        "trainer.v1.trainer_mode=colocate_async",
        recipe="qwen3vl_8b_visionr1",
        **{"PROFILE": "cpu", "SCHEDULE": "gated", "TOTAL_STEPS": 3, "SAVE_FREQ": 3, "TEST_FREQ": 3, "TRAIN_BATCH": 16},
        **{"LORA": 8, "LORA_LR": "1e-3"},
        **{"WEIGHTS": "{format:0.25,recall:0.25,precision:1}", "STAGES": "[[0.3,0.3,0.6],[0.5,0.5,0.75]]"},
        **draw_rows(tmp_path / "scenes", train=("both", "counting"), val=("all",)),
        ROUTES="{counting:counting-list}",
    )
    assert process.wait(600) == 0, (run_dir.parent / "run.out").read_text()[-6000:]
    rows = rows_of(run_dir / "validation")
    assert {Target.from_json(row["gts"]).task for row in rows} == {"detection", "grounding", "counting"}
    assert len({frozenset(row) for row in rows}) == 1, "the same keys for every task"
    weights = {"format": 0.25, "recall": 0.25, "precision": 1.0}
    preset = {"counting": PRESETS["counting-list"]}
    stages = staged(Thresholds.of(0.3, 0.3, 0.6), Thresholds.of(0.5, 0.5, 0.75))
    for row in rows:
        target = Target.from_json(row["gts"])
        own = preset.get(target.task) or replace(PRESETS["visionr1"].with_weights(weights), schedule=stages)
        result = score(row["output"], target, preset=own, frame="qwen3-vl", progress=1.0)
        assert row["score"] == pytest.approx(result.value, abs=1e-6)
        assert {name: row[name] for name in own.metrics} == pytest.approx(result.metrics, abs=1e-6)
        assert row["route"] == (1.0 if target.task == "counting" else 0.0)
    assert len({row["score"] for row in rows}) > 2
    steps = {step.number: step for step in read_steps(run_dir)}
    assert "visionr1: gallery: " in (run_dir / "train.log").read_text()
    assert (run_dir / "validation" / "gallery.html").stat().st_size > 10_000
    assert steps[1].has_alarm_metrics
    assert not any(step.alarms for step in steps.values()), "three healthy steps"
    opened = [name for name, value in steps[3].numbers.items() if name.startswith("visionr1/stage/") and value == 1.0]
    assert opened, "some data source passed a bar of 5 % within two steps"
    assert_evaluates_near_validation(run_dir, tmp_path / "scenes" / "val_all.parquet")
    assert not run_pids(run_dir), "nothing is left running"


def assert_evaluates_near_validation(run_dir: Path, val: Path) -> None:
    """The last checkpoint answers as the trainer's last validation did, up to rounding, and is scored as in the run.

    bf16 alone moves the logits as much as fusing the LoRA weights does; near-ties of this tiny model then turn.
    """
    out, last = run_dir / "evaluation", max((run_dir / "validation").glob("*.jsonl"), key=lambda file: int(file.stem))
    validated = [json.loads(line) for line in last.read_text().splitlines()]
    words = ("--out", out, "--resamples", 0, "--device", "cpu")
    run("visionr1", "eval", run_dir, val, *words)
    answered = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    answers = [row["output"] for row in answered]
    assert len(answers) == len(validated)
    same = Counter(answers) & Counter(row["output"] for row in validated)
    assert same.total() >= 0.5 * len(answers)
    rows = [json.loads(line) for line in (out / "report.rows.jsonl").read_text().splitlines()]
    assert {row["preset"] for row in rows} == {"visionr1", "counting-list"}
    scored = {row["output"] + row["gts"]: row["score"] for row in validated}
    texts = {(row["file"], row["row"]): row["output"] + row["gts"] for row in answered}
    rewards = {texts[row["file"], row["row"]]: row["reward"] for row in rows}
    both = scored.keys() & rewards.keys()
    assert [rewards[text] for text in both] == pytest.approx([scored[text] for text in both], abs=1e-6)


@pytest.mark.nightly
def test_options_reach_the_training(tmp_path: Path) -> None:
    """A step of the VLM-R1 recipe: groups without a difference are replaced, no reference model, its own reward."""
    run_dir = tmp_path / "run"
    process = start_recipe(
        run_dir,
        *("--filter-groups=format", "--kl", "off", "--loss=token-mean", "--freeze-vision"),
        recipe="qwen2_5vl_3b_vlmr1_rec",
        **{"PROFILE": "cpu", "TOTAL_STEPS": 1, "SAVE_FREQ": -1, "TEST_FREQ": 1, "TRAIN_BATCH": 8, "ROLLOUT_N": 2},
        **{"MODEL_PATH": ROOT / "recipes" / "tiny" / "qwen3_vl_scenes", "ROLLOUT_DIR": run_dir / "rollouts"},
        **draw_rows(tmp_path / "scenes", train=("grounding",), val=("grounding",)),  # the model knows no other wording
    )
    assert process.wait(600) == 0, (run_dir.parent / "run.out").read_text()[-6000:]
    think = CriterionSettings(fn="think_answer", weight=0.5)
    preset = build_preset(PresetSettings(base="vlmr1-rec", criteria={"think": think}, weights={"format": 0.5}))
    judged = {}
    for row in (*rows_of(run_dir / "rollouts"), *rows_of(run_dir / "validation")):
        result = score(row["output"], Target.from_json(row["gts"]), preset=preset, frame="qwen3-vl", progress=1.0)
        assert row["score"] == pytest.approx(result.value, abs=1e-6)
        judged[row["uid"]] = result
    pairs = defaultdict(set)
    for row in rows_of(run_dir / "rollouts"):
        pairs[row["uid"].rsplit("_", 2)[0]].add(judged[row["uid"]].metrics["format"])
    # About half of the prompts drawn first have two answers that are alike in it: eight of eight are no chance.
    assert list(pairs.values()) == [{0.0, 1.0}] * 8, "verl replaced the prompts whose answers are alike"
    log = (run_dir / "train.log").read_text()
    assert "visionr1: vision tower frozen" in log
    step = read_steps(run_dir)[-1]
    assert "actor/kl_loss" not in step.numbers
    assert step.numbers["actor/grad_norm"] > 0


def run_pids(run_dir: Path) -> list[int]:
    """Processes whose environment names the run directory: the recipe and all it started."""
    mark = f"RUN_DIR={run_dir}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
