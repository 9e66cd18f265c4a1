"""`visionr1 plan`: parts by hand, counts against transformers, and what must hold whatever the numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from verl_visionr1.cli import app
from verl_visionr1.tools.plan import memory
from verl_visionr1.tools.plan.choosing import MARGIN, plan
from verl_visionr1.tools.plan.memory import GB, Machine, Run, Settings, total
from verl_visionr1.tools.plan.shape import KNOWN, PlanError, Shape, shape_of_folder, shape_of_size
from verl_visionr1.tools.plan.view import cost_of_sdpa, override_lines, overrides_of

THREE, SEVEN = KNOWN["Qwen2.5-VL-3B"], KNOWN["Qwen2.5-VL-7B"]
RUN = Run(max_prompt=1024, max_response=512, answers=8, prompts=128)
MODEL_TYPES = {"Qwen2-VL": "qwen2_vl", "Qwen2.5-VL": "qwen2_5_vl", "Qwen3-VL": "qwen3_vl", "Qwen3.5": "qwen3_5"}


def model_type_of(shape: Shape) -> str:
    return MODEL_TYPES[shape.name.rpartition("-")[0]]


def config_of(shape: Shape) -> dict:
    """The config.json of a Qwen-VL of that shape."""
    kind = model_type_of(shape)
    text = {"hidden_size": shape.text.hidden, "num_hidden_layers": shape.text.n, "vocab_size": shape.vocab}
    text |= {"intermediate_size": shape.text.intermediate, "head_dim": shape.head_dim}
    text |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
    vision = {"depth": shape.vision.n, "num_heads": 16, "hidden_size": shape.vision.hidden}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": shape.vision.hidden, "hidden_size": shape.text.hidden, "mlp_ratio": 4}
    else:
        vision |= {"out_hidden_size": shape.text.hidden, "intermediate_size": shape.vision.intermediate}
    if kind == "qwen3_vl":
        vision["deepstack_visual_indexes"] = [0, 1, 2]
    if shape.linear is not None:
        kinds = ["linear_attention"] * shape.linear.n + ["full_attention"] * shape.n_attending
        text["layer_types"] = kinds
    both = {"tie_word_embeddings": shape.is_tied}
    return {"model_type": kind, "text_config": text | both, "vision_config": vision, **both}


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
    assert (sum(sizes.values()), vision) == (
        pytest.approx(shape.params, rel=3e-4),
        pytest.approx(shape.vision_params, rel=2e-3),
    )


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
    "nothing there": (None, "no config.json there"),
    "no JSON": ("{", "no language model of a known kind"),
    "no transformer": ('{"model_type": "resnet"}', "no language model of a known kind"),
    "experts": (json.dumps(config_of(SEVEN) | {"num_experts": 8}), "a mixture of experts"),
    "no weights": (json.dumps(config_of(SEVEN)), "no safetensors files"),
}


@pytest.mark.parametrize(("config", "message"), BROKEN_FOLDERS.values(), ids=BROKEN_FOLDERS)
def test_a_folder_that_cannot_be_counted(tmp_path: Path, config: str | None, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(PlanError, match=message):
        shape_of_folder(tmp_path)


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of(SEVEN)))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(PlanError, match="not a safetensors file"):
        shape_of_folder(tmp_path)


DEFAULTS = Settings()


def parts_of(shape: Shape, n: int, run: Run = RUN, settings: Settings = DEFAULTS) -> dict[str, float]:
    return {part.name: round(part.gb * GB / 1e9, 2) for part in memory.training(shape, Machine(n), run, settings)}


BY_HAND = {
    # 7B: 8.292e9 x 4, x 4 and x 8 bytes over N; two layers and the head in bf16 with a gradient in bf16 and fp32:
    # 2 x (545.0e6 + 2 x 233.0e6) + 6 x 545.0e6 = 5.29e9; 512 x 152064 x 20 = 1.56e9.
    "7B on 1": (
        SEVEN,
        1,
        {"weights": 33.17, "gradients": 33.17, "Adam": 66.34, "gathered layers": 5.29, "logits": 1.56},
    ),
    "7B on 8": (SEVEN, 8, {"weights": 4.15, "gradients": 4.15, "Adam": 8.29, "gathered layers": 5.29, "logits": 1.56}),
    # 3B: 3.755e9; head 311.2e6, layers of 77.1e6: 2 x (311.2 + 154.1) + 6 x 311.2 = 2798e6.
    "3B on 2": (THREE, 2, {"weights": 7.51, "gradients": 7.51, "Adam": 15.02, "gathered layers": 2.8, "logits": 1.56}),
    "3B on 4": (THREE, 4, {"weights": 3.76, "gradients": 3.75, "Adam": 7.51, "gathered layers": 2.8, "logits": 1.56}),
}


@pytest.mark.parametrize(("shape", "n", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_parts_by_hand(shape: Shape, n: int, expected: dict[str, float]) -> None:
    found = parts_of(shape, n)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.011)


def test_activations_by_hand() -> None:
    """7B, 8000 tokens with a quarter more: 10,000; of 1536 tokens 1024 are an image's, which are 4 patches each.

    Kept: 10,000 x 28 x 3584 x 2 = 2.01e9 for text, 26,667 x 32 x 1280 x 2 = 2.18e9 for vision; a layer at work:
    10,000 x 2 x (12 x 3584 + 6 x 18944) = 3.13e9.
    """
    settings = Settings(tokens=8000)
    assert parts_of(SEVEN, 1, settings=settings)["activations"] == pytest.approx(2.01 + 2.18 + 3.13, abs=0.02)
    frozen = replace(RUN, is_vision_frozen=True)
    assert parts_of(SEVEN, 1, frozen, settings)["activations"] == pytest.approx(2.01 + 3.13, abs=0.02)


def test_logits_without_a_fused_head() -> None:
    """The classic: 10,000 tokens x 152,064 words x 8 bytes."""
    assert parts_of(SEVEN, 1, settings=Settings(tokens=8000, is_fused=False))["logits"] == pytest.approx(
        12.17, abs=0.01
    )


def test_weights_on_their_way_by_hand() -> None:
    """7B with LoRA on 8: 4 x 8.454e9 / 8, Adam of the adapter, vLLM's 2 x 8.292e9, a bucket, and a head in fp32."""
    parts = memory.hand_over(SEVEN, Machine(8), replace(RUN, lora_rank=64), DEFAULTS)
    expected = (4 * 8.4535 + 8 * 0.1615) / 8 + 2 * 8.292 + 4 * 0.545
    assert total(parts) * GB / 1e9 == pytest.approx(
        expected + (memory.BUCKET_GB + memory.TRAINER_GB) * GB / 1e9, abs=0.01
    )


def test_a_frozen_tower_and_an_adapter_need_no_gradients() -> None:
    frozen, adapter = (
        parts_of(SEVEN, 1, replace(RUN, is_vision_frozen=True)),
        parts_of(SEVEN, 1, replace(RUN, lora_rank=64)),
    )
    assert frozen["Adam"] == pytest.approx(8 * (8.292 - 0.677), abs=0.01)
    assert frozen["weights"] == parts_of(SEVEN, 1)["weights"]
    assert adapter["Adam"] == pytest.approx(8 * 0.1615, abs=0.01)
    assert adapter["weights"] == pytest.approx(4 * (8.292 + 0.1615), abs=0.01)


CHOICES = {
    # what, machine, run -> (offload_adam, offload_params, offload_always, tensor_parallel)
    "7B on 8 x 80": (SEVEN, Machine(8), RUN, (False, False, False, 1)),
    "7B on 2 x 80": (SEVEN, Machine(2), RUN, (False, False, False, 1)),
    "7B on 1 x 80": (SEVEN, Machine(1), RUN, (False, False, True, 1)),
    "7B with LoRA on 1 x 80": (SEVEN, Machine(1), replace(RUN, lora_rank=64), (False, False, False, 1)),
    "7B on 8 x 24": (SEVEN, Machine(8, gpu_gb=24), RUN, (False, False, True, 2)),
    "3B on 1 x 80": (THREE, Machine(1), RUN, (False, False, False, 1)),
    "3B on 8 x 24": (THREE, Machine(8, gpu_gb=24), RUN, (False, False, False, 1)),
    "3B on 4 x 40, many long answers": (THREE, Machine(4, gpu_gb=40), Run(4096, 8192, 8, 512), (True, False, False, 2)),
    "72B on 4 nodes": (KNOWN["Qwen2.5-VL-72B"], Machine(8, nodes=4), RUN, (False, False, False, 4)),
}


@pytest.mark.parametrize(("shape", "machine", "run", "expected"), CHOICES.values(), ids=CHOICES)
def test_choices(shape: Shape, machine: Machine, run: Run, expected: tuple) -> None:
    found = plan(shape, machine, run)
    settings = found.settings
    assert (
        settings.offload_adam,
        settings.offload_params,
        settings.offload_always,
        settings.tensor_parallel,
    ) == expected
    assert total(found.training) <= machine.gpu_gb * MARGIN
    assert total(found.generation) <= machine.gpu_gb * MARGIN + 1e-6
    assert settings.tokens >= run.length
    assert found.log_prob_tokens >= settings.tokens


LARGE = KNOWN["Qwen2.5-VL-72B"]
REFUSALS = {
    # Its shard alone is 31 GB in fp32 while it is loaded; later it would fit, offloaded.
    "loading": (
        SEVEN,
        Machine(1, gpu_gb=32),
        RUN,
        "1 x 32 GB do not fit: loading takes 34 GB per GPU; would fit: --gpus 2",
    ),
    "host memory": (
        *(SEVEN, Machine(1, host_gb=100), RUN),
        r"takes 134 GB per GPU without offload; would fit: offload with 147 GB of host memory .*LoRA.*, or --gpus 2",
    ),
    "nodes": (LARGE, Machine(8, host_gb=500), RUN, r"would fit: .*LoRA \(--lora 64\), or --gpus 8 --nodes 4"),
    "heads that cannot be shared": (replace(LARGE, heads=65), Machine(8, nodes=4), RUN, "vLLM's cache cannot hold 16"),
    "few answers at once": (
        *(SEVEN, Machine(1, gpu_gb=40), Run(8192, 16384, 8, 64, image_tokens=256)),
        "vLLM's cache cannot hold 16 sequences of 24576 tokens; would fit: --gpus 2",
    ),
    "nothing helps": (
        LARGE,
        Machine(1, gpu_gb=1),
        RUN,
        "one sequence of 1536 tokens takes .*offloaded; shorten --max-prompt",
    ),
}


@pytest.mark.parametrize(("shape", "machine", "run", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_would_fit(shape: Shape, machine: Machine, run: Run, message: str) -> None:
    with pytest.raises(PlanError, match=message) as refused:
        plan(shape, machine, run)
    assert "\n" not in str(refused.value)


shapes = st.sampled_from(list(KNOWN.values()))
runs = st.builds(
    Run,
    max_prompt=st.integers(64, 16384),
    max_response=st.integers(1, 8192),
    answers=st.integers(1, 32),
    prompts=st.integers(1, 2048),
    lora_rank=st.sampled_from([0, 8, 64]),
    is_vision_frozen=st.booleans(),
    has_kl=st.booleans(),
)
machines = st.builds(
    Machine, st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.floats(8, 200), st.none() | st.floats(16, 4000)
)
settings = st.builds(
    Settings,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
    st.integers(256, 32768),
    st.booleans(),
)


def gpu_accounts(shape: Shape, machine: Machine, run: Run, chosen: Settings) -> list[float]:
    accounts = (memory.training, memory.waiting, memory.hand_over)
    return [total(account(shape, machine, run, chosen)) for account in accounts]


def no_more(less: list[float], more: list[float]) -> bool:
    return all(a <= b + 1e-9 for a, b in zip(less, more, strict=True))


@given(shapes, machines, runs, settings)
def test_more_gpus_never_need_more_of_each(shape: Shape, machine: Machine, run: Run, chosen: Settings) -> None:
    twice = gpu_accounts(shape, replace(machine, nodes=2 * machine.nodes), run, chosen)
    assert no_more(twice, gpu_accounts(shape, machine, run, chosen))


@given(shapes, machines, runs, settings)
def test_an_adapter_never_needs_more_to_train(shape: Shape, machine: Machine, run: Run, chosen: Settings) -> None:
    # A small adapter is more weights, far less gradients and moments.
    full, adapter = (replace(run, lora_rank=rank) for rank in (0, 64))
    assert total(memory.training(shape, machine, adapter, chosen)) <= total(
        memory.training(shape, machine, full, chosen)
    )


@given(shapes, machines, runs, settings)
def test_offload_never_needs_more_of_a_gpu(shape: Shape, machine: Machine, run: Run, chosen: Settings) -> None:
    base = gpu_accounts(shape, machine, run, chosen)
    for name in ("offload_params", "offload_adam", "offload_always"):
        assert no_more(gpu_accounts(shape, machine, run, replace(chosen, **{name: True})), base)


@given(shapes, machines, runs)
def test_a_plan_fits_and_is_one_that_more_gpus_fit_too(shape: Shape, machine: Machine, run: Run) -> None:
    try:
        found = plan(shape, machine, run)
    except PlanError:
        return
    assert total(found.training) <= machine.gpu_gb * MARGIN
    assert total(found.generation) <= machine.gpu_gb * MARGIN + 1e-6
    assert total(memory.hand_over(shape, machine, run, found.settings)) <= machine.gpu_gb * MARGIN
    assert machine.host_gb is None or total(found.host) <= machine.host_gb
    assert found.settings.tokens >= run.length
    assert machine.n % found.settings.tensor_parallel == 0
    assert shape.heads % found.settings.tensor_parallel == 0
    assert 0 < found.share <= 0.9
    assert found.sequences <= found.wanted
    plan(shape, replace(machine, nodes=2 * machine.nodes), run)


@given(st.floats(1e8, 2e11))
def test_any_size_has_a_shape(params: float) -> None:
    shape = shape_of_size(params)
    assert shape.params == params
    assert 0 <= shape.vision_params < params


def visionr1(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["plan", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


LENGTHS = ("--max-prompt", 1024, "--max-response", 512, "--rollout-n", 8, "--train-batch", 128)


def test_overrides_on_standard_output_and_reasons_on_standard_error() -> None:
    code, out, err = visionr1(
        "--params", "8.29e9", "--gpus", 8, "--kl", *LENGTHS, "--overrides", "--attention", "flash"
    )
    assert code == 0
    assert out.splitlines() == override_lines(plan(shape_of_size(8.29e9), Machine(8), replace(RUN, has_kl=True)))
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


@pytest.mark.parametrize(
    ("machine", "run"), [(Machine(1), replace(RUN, lora_rank=64)), (Machine(2), RUN), (Machine(8, gpu_gb=40), RUN)]
)
def test_without_flash_attn_padding_has_its_place(machine: Machine, run: Run) -> None:
    packed, padded = (plan(SEVEN, replace(machine, has_flash=has_flash), run) for has_flash in (True, False))
    assert padded.settings.tokens < packed.settings.tokens
    assert total(padded.training) <= machine.gpu_gb * MARGIN
    activations = {
        one: next(
            part.gb
            for part in memory.training(SEVEN, replace(machine, has_flash=one), run, Settings(tokens=4096))
            if part.name == "activations"
        )
        for one in (True, False)
    }
    assert activations[False] == pytest.approx(memory.PADDED * activations[True])
    assert f"budget {padded.settings.tokens} tokens, {packed.settings.tokens} with flash-attn" in cost_of_sdpa(padded)


def test_where_the_budget_is_the_same_sdpa_still_computes_padding() -> None:
    found = plan(SEVEN, Machine(8, has_flash=False), Run(1024, 512, 4, 16, has_kl=True))
    assert f"the same budget of {found.settings.tokens} tokens" in cost_of_sdpa(found)
    assert "1.20 x" in cost_of_sdpa(found)  # 1536 / (1024 + 256)


def test_a_table_to_read() -> None:
    code, out, err = visionr1("--params", "8.29e9", "--gpus", 8, *LENGTHS, "--attention", "flash")
    assert (code, err) == (0, "")
    for expected in ("Adam", "sharded: 8 bytes x T / N", "rollout.gpu_memory_utilization=", "not measured on a GPU"):
        assert expected in out


MISTAKES = {
    "neither": (("--gpus", 8), "give either --params NUMBER or --model FOLDER"),
    "both": (("--gpus", 8, "--params", 1e9, "--model", "x"), "give either --params NUMBER or --model FOLDER"),
    "no GPU": (("--gpus", 0, "--params", 1e9), "--gpus 0"),
    "no folder": (("--gpus", 1, "--model", "/no/where"), "/no/where: no config.json there"),
    "too small a GPU": (("--gpus", 1, "--params", 8e9, "--gpu-memory", 16), "do not fit"),
    "an image longer than a prompt": (
        ("--gpus", 1, "--params", 8e9, "--image-tokens", 2000),
        "a prompt has 1024 tokens",
    ),
    "a tower larger than the model": (
        ("--gpus", 1, "--params", 8e9, "--vision-params", 9e9),
        "needs less than all 8e+09",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str) -> None:
    words, message = MISTAKES[name]
    code, out, err = visionr1(*words, *LENGTHS, "--overrides")
    assert (code, out) == (1 if name == "too small a GPU" else 2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_variants_name_what_makes_them_true() -> None:
    adapter = overrides_of(plan(SEVEN, Machine(1), replace(RUN, lora_rank=64, has_kl=True)))
    assert adapter["actor_rollout_ref.rollout.load_format"][0] == "safetensors"
    assert not [key for key in adapter if key.startswith("actor_rollout_ref.ref.")], (
        "with LoRA no reference model is built"
    )
    frozen = overrides_of(plan(SEVEN, Machine(8), replace(RUN, is_vision_frozen=True)))
    assert frozen["actor_rollout_ref.model.external_lib"][0] == "verl_visionr1.runtime.frozen_vision"
