"""`visionr1 plan`: parts by hand, what is chosen, and what must hold whatever the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned import RUN, SEVEN, THREE

from verl_visionr1.tools.plan import memory
from verl_visionr1.tools.plan.choosing import MARGIN, plan
from verl_visionr1.tools.plan.memory import GB, Machine, Run, Settings, Step, total
from verl_visionr1.tools.plan.shape import KNOWN, PlanError, Shape

DEFAULTS = Settings()


def parts_of(shape: Shape, n: int, run: Run = RUN, settings: Settings = DEFAULTS) -> dict[str, float]:
    return {part.name: round(part.gb * GB / 1e9, 2) for part in Step(shape, Machine(n), run, settings).training()}


BY_HAND = {
    # 7B: 8.292e9 x 4, x 4 and x 8 bytes over N; two layers and the head in bf16 with a gradient in bf16 and fp32:
    # 2 x (545.0e6 + 2 x 233.0e6) + 6 x 545.0e6 = 5.29e9; 512 x 152064 x 20 = 1.56e9.
    "7B on 8": (SEVEN, 8, {"weights": 4.15, "gradients": 4.15, "Adam": 8.29, "gathered layers": 5.29, "logits": 1.56}),
    # 3B: 3.755e9; head 311.2e6, layers of 77.1e6: 2 x (311.2 + 154.1) + 6 x 311.2 = 2798e6.
    "3B on 2": (THREE, 2, {"weights": 7.51, "gradients": 7.51, "Adam": 15.02, "gathered layers": 2.8, "logits": 1.56}),
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
    frozen = parts_of(SEVEN, 1, replace(RUN, is_vision_frozen=True), replace(settings, is_fused=False))
    assert frozen["activations"] == pytest.approx(2.01 + 3.13, abs=0.02)
    assert frozen["logits"] == pytest.approx(12.17, abs=0.01)  # 10,000 tokens x 152,064 words x 8 bytes


def test_weights_on_their_way_by_hand() -> None:
    """7B with LoRA on 8: 4 x 8.454e9 / 8, Adam of the adapter, vLLM's 2 x 8.292e9, a bucket, and a head in fp32."""
    parts = Step(SEVEN, Machine(8), replace(RUN, lora_rank=64), DEFAULTS).hand_over()
    expected = (4 * 8.4535 + 8 * 0.1615) / 8 + 2 * 8.292 + 4 * 0.545
    assert total(parts) * GB / 1e9 == pytest.approx(
        expected + (memory.BUCKET_GB + memory.TRAINER_GB) * GB / 1e9, abs=0.01
    )


def test_a_frozen_tower_and_an_adapter_need_no_gradients() -> None:
    frozen, adapter = (
        parts_of(SEVEN, 1, replace(RUN, **with_)) for with_ in ({"is_vision_frozen": True}, {"lora_rank": 64})
    )
    assert frozen["Adam"] == pytest.approx(8 * (8.292 - 0.677), abs=0.01)
    assert frozen["weights"] == parts_of(SEVEN, 1)["weights"]
    assert adapter["Adam"] == pytest.approx(8 * 0.1615, abs=0.01)
    assert adapter["weights"] == pytest.approx(4 * (8.292 + 0.1615), abs=0.01)


CHOICES = {
    # what, machine, run -> (offload_adam, offload_params, offload_always, tensor_parallel)
    "7B on 8 x 80": (SEVEN, Machine(8), RUN, (False, False, False, 1)),
    "7B on 1 x 80": (SEVEN, Machine(1), RUN, (False, False, True, 1)),
    "7B with LoRA on 1 x 80": (SEVEN, Machine(1), replace(RUN, lora_rank=64), (False, False, False, 1)),
    "7B on 8 x 24": (SEVEN, Machine(8, gpu_gb=24), RUN, (False, False, True, 2)),
    "3B on 1 x 80": (THREE, Machine(1), RUN, (False, False, False, 1)),
    "3B on 4 x 40, many long answers": (THREE, Machine(4, gpu_gb=40), Run(4096, 8192, 8, 512), (True, False, False, 2)),
    "72B on 4 nodes": (KNOWN["Qwen2.5-VL-72B"], Machine(8, nodes=4), RUN, (False, False, False, 4)),
}


@pytest.mark.parametrize(("shape", "machine", "run", "expected"), CHOICES.values(), ids=CHOICES)
def test_choices(shape: Shape, machine: Machine, run: Run, expected: tuple) -> None:
    found = plan(shape, machine, run)
    settings = found.step.settings
    offloads = (settings.offload_adam, settings.offload_params, settings.offload_always)
    assert (*offloads, settings.tensor_parallel) == expected
    assert total(found.step.training()) <= machine.gpu_gb * MARGIN
    assert total(found.generation) <= machine.gpu_gb * MARGIN + 1e-6
    assert settings.tokens >= run.length
    assert found.log_prob_tokens >= settings.tokens


LARGE = KNOWN["Qwen2.5-VL-72B"]
REFUSALS = {
    # Its shard alone is 31 GB in fp32 while it is loaded; later it would fit, offloaded.
    "loading": (SEVEN, Machine(1, gpu_gb=32), RUN, "1 x 32 GB are not enough for .* 1536 tokens; would fit: --gpus 2"),
    "host memory": (
        *(SEVEN, Machine(1, host_gb=100), RUN),
        r"would fit: offload with 147 GB of host memory .*LoRA.*, or --gpus 2",
    ),
    "nodes": (LARGE, Machine(8, host_gb=500), RUN, r"would fit: .*LoRA \(--lora 64\), or --gpus 8 --nodes 4"),
    "few answers at once": (
        *(SEVEN, Machine(1, gpu_gb=40), Run(8192, 16384, 8, 64, image_tokens=256)),
        "sequences of 24576 tokens; would fit: --gpus 2",
    ),
    "nothing helps": (LARGE, Machine(1, gpu_gb=1), RUN, "1536 tokens; shorten --max-prompt"),
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
is_so = st.booleans()
settings = st.builds(Settings, is_so, is_so, is_so, st.sampled_from([1, 2, 4]), st.integers(256, 32768), is_so)


def gpu_accounts(shape: Shape, machine: Machine, run: Run, chosen: Settings) -> list[float]:
    step = Step(shape, machine, run, chosen)
    return [total(step.training()), total(step.waiting()), total(step.hand_over())]


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
    of_adapter, of_all = (total(Step(shape, machine, one, chosen).training()) for one in (adapter, full))
    assert of_adapter <= of_all


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
    assert total(found.step.training()) <= machine.gpu_gb * MARGIN
    assert total(found.generation) <= machine.gpu_gb * MARGIN + 1e-6
    assert total(found.step.hand_over()) <= machine.gpu_gb * MARGIN
    assert machine.host_gb is None or total(found.step.host()) <= machine.host_gb
    assert found.step.settings.tokens >= run.length
    assert machine.n % found.step.settings.tensor_parallel == 0
    assert shape.heads % found.step.settings.tensor_parallel == 0
    assert 0 < found.share <= 0.9
    assert found.sequences <= found.wanted
    plan(shape, replace(machine, nodes=2 * machine.nodes), run)
