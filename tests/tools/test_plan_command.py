"""`visionr1 plan`: models counted in their folders, overrides, attention, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from planned import RUN, SEVEN, THREE, config_of
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.tools.plan import memory
from verl_visionr1.tools.plan.choosing import MARGIN, plan
from verl_visionr1.tools.plan.memory import Machine, Run, Settings, total
from verl_visionr1.tools.plan.shape import KNOWN, PlanError, Shape, shape_of_folder, shape_of_size
from verl_visionr1.tools.plan.view import overrides_of


@pytest.mark.verl
@pytest.mark.parametrize("name", ["Qwen2-VL-2B", "Qwen2.5-VL-7B", "Qwen3-VL-8B", "Qwen3-VL-4B", "Qwen3.5-9B"])
def test_known_models_are_as_large_as_in_transformers(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    shape = KNOWN[name]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config_of(shape)))
    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    vision = sum(size for key, size in sizes.items() if "visual" in key)
    assert sum(sizes.values()) == pytest.approx(shape.params, rel=3e-4)
    assert vision == pytest.approx(shape.vision_params, rel=2e-3)


def write_model(folder: Path, config: dict) -> Path:
    """A model folder with 1000 parameters, 300 of them its tower's."""
    (folder / "config.json").write_text(json.dumps(config))
    header = {
        "__metadata__": {"format": "pt"},
        "model.visual.merger.weight": {"dtype": "BF16", "shape": [30, 10], "data_offsets": [0, 600]},
        "model.language_model.embed_tokens.weight": {"dtype": "BF16", "shape": [7, 100], "data_offsets": [600, 2000]},
    }
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded)
    return folder


@pytest.mark.parametrize("shape", [THREE, KNOWN["Qwen2-VL-2B"]], ids=str)
def test_a_folder_is_counted_by_its_weights(tmp_path: Path, shape: Shape) -> None:
    found = shape_of_folder(write_model(tmp_path, config_of(shape)))
    assert found == replace(shape, name=str(tmp_path), params=1000, vision_params=300)


@pytest.mark.parametrize(
    "given", [{"full_attention_interval": 4}, {"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8}]
)
def test_a_folder_with_linear_attention(tmp_path: Path, given: dict) -> None:
    whole = KNOWN["Qwen3.5-9B"]
    config = config_of(whole)
    del config["text_config"]["layer_types"]
    config["text_config"] |= given
    shape = shape_of_folder(write_model(tmp_path, config))
    assert (shape.linear, shape.n_attending, shape.has_fused_head) == (whole.linear, 8, True)


BROKEN_FOLDERS = {
    "nothing there": (None, "no config.json"),
    "no safetensors": (json.dumps(config_of(SEVEN)), "not safetensors"),
    "no JSON": ("{", "not a language model"),
    "no transformer": ('{"model_type": "resnet"}', "not a language model"),
    "experts": (json.dumps(config_of(SEVEN) | {"num_experts": 8}), "a mixture of experts"),
    "no weights": (json.dumps(config_of(SEVEN)), "no safetensors files"),
}


@pytest.mark.parametrize(("config", "message"), BROKEN_FOLDERS.values(), ids=BROKEN_FOLDERS)
def test_a_folder_that_cannot_be_counted(tmp_path: Path, config: str | None, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    if message == "not safetensors":
        (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(PlanError, match=message):
        shape_of_folder(tmp_path)


def visionr1(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["plan", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


LENGTHS = ("--max-prompt", 1024, "--max-response", 512, "--rollout-n", 8, "--train-batch", 128)


def test_overrides_on_standard_output_and_reasons_on_standard_error() -> None:
    code, out, err = visionr1(
        "--params", "8.29e9", "--gpus", 8, "--kl", *LENGTHS, "--overrides", "--attention", "flash"
    )
    assert code == 0
    values = values_of(shape_of_size(8.29e9), Machine(8), replace(RUN, has_kl=True))
    assert out.splitlines() == [f"{key}={value}" for key, value in values.items()]
    assert all(line.count("=") >= 1 and " " not in line for line in out.splitlines())
    assert "actor_rollout_ref.ref.fsdp_config.model_dtype=bf16" in out
    assert "not measured on a GPU" in err


SDPA = {
    "actor_rollout_ref.model.use_remove_padding=False",
    "++actor_rollout_ref.model.override_config.attn_implementation=sdpa",
}


@pytest.mark.parametrize("is_installed", [True, False])
@pytest.mark.parametrize("asked", ["flash", "sdpa", None])
def test_attention_is_as_asked_or_as_installed(
    asked: str | None, is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "verl_visionr1.cli.plan.find_spec", lambda name: (is_installed and name == "flash_attn") or None
    )
    words = ("--attention", asked) if asked else ()
    code, out, err = visionr1("--params", "8.29e9", "--gpus", 8, *LENGTHS, "--overrides", *words)
    is_flash = asked == "flash" or (asked is None and is_installed)
    assert code == 0
    assert SDPA & set(out.splitlines()) == (set() if is_flash else SDPA)
    assert ("planned with --attention" in err) == (asked is None)
    assert ("sdpa instead of flash-attn" in err) == (not is_flash)
    assert ("1.20 x where" in err) == (not is_flash)  # 1536 / (1024 + 256)


@pytest.mark.parametrize(
    ("machine", "run"), [(Machine(1), replace(RUN, lora_rank=64)), (Machine(2), RUN), (Machine(8, gpu_gb=40), RUN)]
)
def test_without_flash_attn_padding_has_its_place(machine: Machine, run: Run) -> None:
    packed, padded = (plan(SEVEN, replace(machine, has_flash=has_flash), run) for has_flash in (True, False))
    assert padded.step.settings.tokens < packed.step.settings.tokens
    assert total(padded.step.training()) <= machine.gpu_gb * MARGIN
    with_flash, without = (
        next(part.gb for part in replace(found.step, settings=Settings()).training() if part.name == "activations")
        for found in (packed, padded)
    )
    assert without == pytest.approx(memory.PADDED * with_flash)


def test_a_table_to_read() -> None:
    code, out, err = visionr1("--params", "8.29e9", "--gpus", 8, *LENGTHS, "--attention", "flash")
    assert (code, err) == (0, "")
    for expected in ("Adam", "sharded: 8 bytes x T / N", "rollout.gpu_memory_utilization=", "not measured on a GPU"):
        assert expected in out


@pytest.mark.parametrize(
    ("words", "needs"),
    [((), True), (("--host-memory", 2000), False), (("--model", "Qwen/Qwen2.5-VL-7B-Instruct"), False)],
)
def test_defaults_and_a_remark_on_much_host_memory(words: tuple[object, ...], needs: bool) -> None:
    model = () if "--model" in words else ("--model", "Qwen2.5-VL-72B")
    code, out, _ = visionr1(*model, "--gpus", 8, *words)
    assert (code, "not checked; give yours: --host-memory" in out) == (0, needs)
    assert "64 prompts x 8 answers, up to 1024 + 1024 tokens" in out


MISTAKES = {
    "neither": (("--gpus", 8), "give either --params NUMBER or --model"),
    "both": (("--gpus", 8, "--params", 1e9, "--model", "x"), "give either --params NUMBER or --model"),
    "no GPU": (("--gpus", 0, "--params", 1e9), "'--gpus'"),
    "no parameters": (("--gpus", 1, "--params", 0), "--params 0"),
    "no folder": (("--gpus", 1, "--model", "/no/where"), "/no/where: no config.json"),
    "too small a GPU": (("--gpus", 1, "--params", 8e9, "--gpu-memory", 16), "1 x 16 GB"),
    "a large image": (("--gpus", 1, "--params", 8e9, "--image-tokens", 2000), "a prompt has 1024 tokens"),
    "a large tower": (("--gpus", 1, "--params", 8e9, "--vision-params", 9e9), "--vision-params 9e+09"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_the_option(name: str) -> None:
    words, message = MISTAKES[name]
    code, out, err = visionr1(*words, *LENGTHS, "--overrides")
    assert (code, out) == (1 if name == "too small a GPU" else 2, "")
    assert message in err


def values_of(shape: Shape, machine: Machine, run: Run) -> dict[str, object]:
    return {key: value for key, value, _ in overrides_of(plan(shape, machine, run))}


def test_variants_name_what_makes_them_true() -> None:
    adapter = values_of(SEVEN, Machine(1), replace(RUN, lora_rank=64, has_kl=True))
    assert adapter["actor_rollout_ref.rollout.load_format"] == "safetensors"
    assert not any(".ref." in key for key in adapter), "with LoRA no reference model is built"
    frozen = values_of(SEVEN, Machine(8), replace(RUN, is_vision_frozen=True))
    assert frozen["actor_rollout_ref.model.external_lib"] == "verl_visionr1.runtime.frozen_vision"
