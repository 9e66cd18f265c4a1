"""benchmarks/gpu: what needs no GPU. Wheels arrive whole or are named; metrics become numbers; models fit."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HERE = ROOT / "benchmarks" / "gpu"
SCRIPTS = ("run.sh", "wheelhouse.sh", "install.sh")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_benchmark_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


results = load("results")


def bash(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=HERE,
        env={**os.environ, "PATH": path, **environment},
    )


# ------------------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script: str) -> None:
    done = bash(f"bash -n {script}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("all", "error: --out DIR: where models, runs and results go; stage b with 7b needs 20 GB there"),
        ("b --out {} --device tpu", "error: --device tpu: needs cpu or cuda"),
        ("b --out {} --models 72b", "error: --models 72b: needs 3b, 7b or 3b,7b"),
        ("b --out {} --managers mine", "error: --managers mine: needs visionr1, naive or both"),
        ("b --out {} --steps 0", "error: --steps 0 --limit 570: whole numbers above 0"),
        ("c --out {}", "error: c: neither a stage nor an option; see --help"),
        ("--out", "error: --out needs a value; see --help"),
    ],
)
def test_wrong_words_are_one_line(tmp_path: Path, words: str, message: str) -> None:
    done = bash(f"bash run.sh {words.format(tmp_path)}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message + "\n")


def test_help_names_stages_and_options() -> None:
    shown = bash("bash run.sh --help").stdout
    for word in ("  a  ", "  b  ", "--device", "--models", "--managers", "--limit", "--dry-run"):
        assert word in shown


def test_the_tiny_recipe_leaves_the_cpu_when_told(tmp_path: Path) -> None:
    """Stage a on a GPU is the tiny recipe with PROFILE=gpu."""
    files = {
        "TRAIN_FILES": "train.parquet",
        "VAL_FILES": "val.parquet",
        "MODEL_PATH": str(tmp_path),
        "RUN_DIR": str(tmp_path),
    }
    recipe = ROOT / "recipes" / "tiny_visionr1_cpu.sh"
    shown = bash(f"bash {recipe} --print-command", VISIONR1_SKIP_SETUP="1", PROFILE="gpu", GPUS="1", **files).stdout
    (groups,) = [line for line in shown.splitlines() if "+visionr1@_global_=" in line]
    assert "progressive" in groups
    assert "cpu" not in groups


# ---------------------------------------------------------------------------------------------------------- wheelhouse


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Three wheels of noise, with their sums as wheelhouse.sh makes them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number in range(3):
        (folder / f"package{number}-1.0-py3-none-any.whl").write_bytes(os.urandom(1000))
    done = bash(f"source wheelhouse.sh; sums {folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_wheels_that_came_whole_pass(wheels: Path) -> None:
    done = bash(f"source install.sh; check {wheels}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"other"), lambda file: file.unlink()])
def test_a_wheel_that_is_damaged_or_missing_is_named(wheels: Path, damage: Any) -> None:
    file = wheels / "package1-1.0-py3-none-any.whl"
    damage(file)
    done = bash(f"source install.sh; check {wheels}")
    assert done.returncode == 1
    assert file.name in done.stderr


def test_a_folder_without_sums_is_refused(tmp_path: Path) -> None:
    done = bash(f"bash install.sh {tmp_path}", VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert f"{tmp_path}: no SHA256SUMS" in done.stderr


def test_what_the_machine_has_is_not_carried(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text(
        "torch==2.11.0\nnvidia-nccl-cu13==2.28.9\nflash-attn==2.8.3\nnumpy==2.3.5\nscipy==1.18.1\nray==2.60.0\n"
    )
    have = tmp_path / "have.txt"
    have.write_text("numpy==2.3.5\nscipy==1.17.0\ntorch==2.11.0+cu130\n")
    wanted = lambda setting: bash(f"{setting} source wheelhouse.sh; wanted {pins}").stdout.split()  # noqa: E731
    assert wanted("") == ["numpy==2.3.5", "scipy==1.18.1", "ray==2.60.0"]
    assert wanted(f"HAVE={have};") == ["scipy==1.18.1", "ray==2.60.0"]
    assert "flash-attn==2.8.3" in wanted("EVERYTHING=1;")


# ------------------------------------------------------------------------------------------------------------- results


def write_stage(
    folder: Path, manager: str, step_seconds: list[float], reward_seconds: float, status: str = "ok"
) -> None:
    """A stage as run.sh and verl leave it: 32 answers of 30 + 20 tokens per step."""
    metrics = folder / "run" / "metrics"
    metrics.mkdir(parents=True)
    stage = {"name": folder.name, "model": "3b", "manager": manager, "device": "cuda", "scale": "full"}
    stage |= {"recipe": "x.sh", "seconds": 100, "status": status, "gpu": "H100"}
    (folder / "stage.json").write_text(json.dumps(stage))
    (folder / "gpu.csv").write_text("1000, 0\n61035, 99\n[N/A], 1\n30000, 50\n")
    lines = [{"step": 0, "data": {"timing_s/step": 1e9}}]
    for number, seconds in enumerate(step_seconds, 1):
        data = {"timing_s/step": seconds, "timing_s/gen": seconds / 2, "timing_s/update_actor": seconds / 4}
        data |= {"perf/total_num_tokens": 1600, "perf/throughput": 1600 / seconds, "prompt_length/mean": 30.0}
        data |= {"response_length/mean": 20.0, "visionr1/reward_seconds/mean": reward_seconds}
        lines.append({"step": number, "data": {**data, "actor/perf/max_memory_allocated_gb": 10.0 + number}})
    (metrics / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_metrics_become_numbers(tmp_path: Path) -> None:
    write_stage(tmp_path / "b-3b-visionr1", "visionr1", [30.0, 4.0, 8.0, 4.0], reward_seconds=0.0005)
    stage, numbers = results.read_stage(tmp_path / "b-3b-visionr1")
    assert (stage.name, stage.status) == ("b-3b-visionr1", "ok")
    assert (numbers.steps, numbers.answers, numbers.step) == (3, 32, 4.0)  # the first step is left out; medians
    assert numbers.parts == {"gen": 2.0, "update_actor": 1.0, "rest": 1.0}
    assert numbers.tokens_per_s == 400.0
    assert numbers.generated_per_s == 32 * 20 / 2.0
    assert numbers.reward_ms == pytest.approx(0.5)
    assert numbers.reward_share == pytest.approx(32 * 0.0005 / 4)
    assert numbers.torch_peak_gb == pytest.approx(14 * 1.073741824)
    assert numbers.gpu_peak_gb == pytest.approx(64.0, abs=0.01)
    assert numbers.start_up == 100 - 46


def test_a_single_step_counts_and_none_is_none(tmp_path: Path) -> None:
    write_stage(tmp_path / "one", "naive", [5.0], 0.001)
    assert results.read_stage(tmp_path / "one")[1].step == 5.0
    write_stage(tmp_path / "none", "naive", [], 0.001, status="failed")
    assert results.read_stage(tmp_path / "none")[1] is None


def test_the_table_has_a_line_a_stage_and_compares_managers(tmp_path: Path) -> None:
    write_stage(tmp_path / "stages" / "b-3b-visionr1", "visionr1", [9.0, 4.2], 0.0005)
    write_stage(tmp_path / "stages" / "b-3b-naive", "naive", [9.0, 4.0], 0.0001)
    write_stage(tmp_path / "stages" / "b-7b-naive", "naive", [], 0.0, status="failed")
    results.main(tmp_path)
    text = (tmp_path / "results.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert len({row.count("|") for row in rows}) == 1, "as many cells in every line"
    assert "| b-3b-visionr1 | ok | 1 | 32 x 30+20 | 4.20 |" in text
    assert "| b-7b-naive | failed |" in text
    assert "3b: a step takes 4.20 s with the reward manager visionr1 and 4.00 s with verl's naive one" in text
    assert "(+5.0 %)" in text
    saved = {
        stage["name"]: stage["measured"] for stage in json.loads((tmp_path / "results.json").read_text())["stages"]
    }
    assert saved["b-7b-naive"] is None
    assert saved["b-3b-naive"]["reward_ms"] == pytest.approx(0.1)


def test_a_broken_stage_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text('{"name": 3}')
    with pytest.raises(ValueError, match=r"stage\.json: Expected `str`, got `int` - at `\$\.name`.* rm -r "):
        results.read_stage(tmp_path)


# -------------------------------------------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def models() -> ModuleType:
    return load("models")


@pytest.mark.verl
@pytest.mark.parametrize(("size", "parameters"), [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_configs_are_of_the_published_sizes(models: ModuleType, size: str, parameters: int) -> None:
    """The numbers of parameters of Qwen2.5-VL-3B-Instruct and -7B-Instruct."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(**models.read_config(size))
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.verl
def test_a_tiny_one_is_written_in_shards_and_loads_whole(models: ModuleType, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    numbers = models.read_config("7b", "tiny")
    tokenizer = models.write_processor(tmp_path, numbers["vocab_size"])
    ids = {key: tokenizer.convert_tokens_to_ids(word) for key, word in models.SPECIAL_TOKENS.items()}
    config = models.Qwen2_5_VLConfig(**numbers, **ids)
    parameters = models.write_weights(tmp_path, models.random_weights(config, "cpu", 0), shard_bytes=2_000_000)
    (tmp_path / "config.json").write_text(json.dumps({**numbers, **ids}))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded: Any = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16, output_loading_info=True)
    model, report = loaded
    assert not any(report.values()), report
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert len(processor.tokenizer) == config.text_config.vocab_size == 4096
    text = processor.tokenizer.decode(torch.arange(1000, 1240), skip_special_tokens=True)
    assert text.count('{"bbox_2d": [') == 10


@pytest.mark.verl
def test_fillers_change_no_text_and_are_all_different(models: ModuleType) -> None:
    from tokenizers import Tokenizer

    words = json.loads((models.TOKENIZER_DIR / "tokenizer.json").read_text())
    filled = models.fill_tokenizer(words, 152_064)
    assert sorted(filled["model"]["vocab"].values()) == list(range(152_064))
    before, after = (Tokenizer.from_str(json.dumps(of)) for of in (words, filled))
    text = 'Find every red circle.\n[{"bbox_2d": [24, 12, 81, 60], "label": "red circle"}, \t\t\n]<|im_end|>'
    assert before.encode(text).ids == after.encode(text).ids
    assert after.decode([444, 150_000]) == models.filler(444) + models.filler(150_000)
