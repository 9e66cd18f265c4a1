"""Every repair of the CPU platform is needed by the installed verl and vLLM, fits them, and works.

Two processes look at the same things: a bare one, where the platform is registered and nothing is repaired, and one
where verl itself loads the plug-in. A repair whose fault no longer shows in the bare process is to be removed; one that
does not help in the other is to be adapted to the installed version.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from typing import Any

import pytest

from verl_visionr1.runtime import cpu_platform
from verl_visionr1.runtime.cpu_platform import UnsupportedVersionError

PROBE = r"""
import json

def outcome(function):
    try:
        return {"is": function()}
    except Exception as error:
        return {"raises": type(error).__name__, "says": str(error)}

import os, socket, sys
import torch
import torch.distributed
import verl
asked = ("verl_visionr1.plugin", "verl.experimental.reward_loop.reward_manager")
loaded = [name in sys.modules for name in asked]
from verl.utils.device import get_device_id, get_device_name, get_torch_device

found = {}

def device():
    name, tensor, module = get_device_name(), torch.ones(1).to(get_device_id()), get_torch_device()
    module.set_device(0); module.synchronize(); module.empty_cache()
    free, total = module.mem_get_info()
    memory_adds_up = 0 < module.memory_allocated() <= module.max_memory_allocated() < total and free < total
    return [name, str(tensor.device), memory_adds_up]
found["device"] = outcome(device)
asked = ("memory_allocated", "mem_get_info", "empty_cache")
found["torch.cpu lacks"] = outcome(lambda: [name for name in asked if not hasattr(torch.cpu, name)])
if os.environ["VERL_USE_EXTERNAL_PLUGINS"] == "none":
    platform = os.environ.pop("VERL_PLATFORM")  # so that importing the plug-in repairs nothing
    from verl_visionr1.runtime.cpu_platform import register_platform
    register_platform()
    os.environ["VERL_PLATFORM"] = platform

def process_group():
    from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group_ray
    initialize_global_process_group_ray()
    total = torch.ones(2)
    torch.distributed.all_reduce(total)
    return total.tolist()

with socket.socket() as free_port:
    free_port.bind(("127.0.0.1", 0))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port.getsockname()[1])}
found["process group"] = outcome(process_group)
if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("cpu:gloo", rank=0, world_size=1)

def process_group_of_sft():
    from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group
    destroy_global_process_group()
    os.environ |= {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    places = list(initialize_global_process_group())
    torch.distributed.all_reduce(torch.ones(2))
    return places
with socket.socket() as free_port:
    free_port.bind(("127.0.0.1", 0))
    os.environ["MASTER_PORT"] = str(free_port.getsockname()[1])
found["process group of SFT"] = outcome(process_group_of_sft)
if not torch.distributed.is_initialized():
    torch.distributed.init_process_group("cpu:gloo", rank=0, world_size=1)

def vllm_version():
    from verl.third_party.vllm import vllm_version
    return vllm_version
found["vllm version"] = outcome(vllm_version)

def linear_weights():
    from vllm.model_executor.layers import utils
    sizes = []
    for remove_weight in (True, False):
        layer = torch.nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=remove_weight)
        kept = layer.weight.numel()
        with torch.no_grad():
            layer.weight.copy_(torch.ones(32, 64)) if kept else None
        seen = layer.cpu_linear(torch.ones(1, 64, dtype=torch.bfloat16), layer.weight, None)
        sizes.append([kept, bool((seen == 64).all())])
    return sizes
found["linear weights"] = outcome(linear_weights)

def reference_offload():
    from torch.distributed.fsdp import fully_shard
    from verl.workers.engine.fsdp import transformer_impl
    policy = transformer_impl.CPUOffloadPolicy(pin_memory=True)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    model = fully_shard(torch.nn.Linear(4, 4), mesh=mesh, offload_policy=policy)
    return list(model(torch.ones(1, 4)).shape)
found["reference offload"] = outcome(reference_offload)

def engines():
    import verl.workers.engine
    from verl.workers.engine.base import EngineRegistry
    kinds = ("language_model", "fsdp2"), ("language_model", "fsdp"), ("value_model", "fsdp2")
    return [EngineRegistry.get_engine_cls(*kind).__name__ for kind in kinds]
found["engines"] = outcome(engines)

def registration():
    from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
    return [*loaded, get_reward_manager_cls("visionr1").__name__]
found["registration"] = outcome(registration)
print("FOUND" + json.dumps(found))
"""


def probe(**environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            **environment,
        },
    )
    answers = [line.removeprefix("FOUND") for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert len(answers) == 1, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(answers[0])


@pytest.fixture(scope="module")
def bare() -> dict[str, Any]:
    return probe(VERL_PLATFORM="cpu", VERL_USE_EXTERNAL_PLUGINS="none")


@pytest.fixture(scope="module")
def repaired() -> dict[str, Any]:
    return probe(VERL_PLATFORM="cpu", VERL_USE_EXTERNAL_PLUGINS="visionr1,visionr1_cpu")


FAULTS = {
    "device": ("register_platform", "Unknown platform 'cpu'"),
    "process group": ("repair_process_group", "Duplicate device type"),
    "process group of SFT": ("repair_process_group", "Duplicate device type"),
    "vllm version": ("repair_vllm_version", "vllm version None not supported"),
    "reference offload": ("repair_reference_offload", "NVIDIA|CUDA|accelerator"),  # how torch says it differs by build
    "engines": ("repair_engine_registry", "No engine registered for device='cpu'"),
}


@pytest.mark.verl
@pytest.mark.slow  # as the next two: they ask the installed verl and vLLM, which no change here alters
@pytest.mark.parametrize("what", FAULTS)
def test_repair_is_still_needed(bare: dict[str, Any], what: str) -> None:
    repair, says = FAULTS[what]
    assert re.search(says, bare[what].get("says", "")), (
        f"{repair}: verl has changed, is the repair still needed? {bare[what]}"
    )


@pytest.mark.verl
@pytest.mark.slow
def test_linear_repair_is_still_needed(bare: dict[str, Any]) -> None:
    """Without bfloat16 products in oneDNN, vLLM has nothing to pack."""
    import torch

    packs = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    expected = [[0, False], [32 * 64, False]] if packs else [[32 * 64, True], [32 * 64, True]]
    assert bare["linear weights"]["is"] == expected, "vLLM keeps or reads live weights now: repair_vllm_linear can go"


@pytest.mark.verl
@pytest.mark.slow
def test_device_module_is_still_needed(bare: dict[str, Any]) -> None:
    assert bare["torch.cpu lacks"]["is"] == ["memory_allocated", "mem_get_info", "empty_cache"]


@pytest.mark.verl
@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("device", ["cpu", "cpu", True]),
        ("process group", [1.0, 1.0]),
        ("process group of SFT", [0, 0, 1]),
        ("linear weights", [[32 * 64, True], [32 * 64, True]]),
        ("reference offload", [1, 4]),
        ("engines", ["FSDPEngineWithLMHead", "FSDPEngineWithLMHead", "FSDPEngineWithValueHead"]),
    ],
)
def test_repair_works(repaired: dict[str, Any], what: str, expected: object) -> None:
    assert repaired[what] == {"is": expected}


@pytest.mark.verl
def test_the_entry_point_registers_lazily(repaired: dict[str, Any]) -> None:
    """Importing verl loads the plug-in, but not yet verl's own reward managers."""
    assert repaired["registration"] == {"is": [True, False, "VisionR1RewardManager"]}


@pytest.mark.verl
def test_vllm_version_is_found(repaired: dict[str, Any]) -> None:
    assert repaired["vllm version"]["is"].endswith("+cpu")


# --- without verl ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [None, "", "nvidia", "npu"])
def test_nothing_happens_unless_chosen(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    if chosen is None:
        monkeypatch.delenv("VERL_PLATFORM", raising=False)
    else:
        monkeypatch.setenv("VERL_PLATFORM", chosen)
    hooks, modules = list(sys.meta_path), set(sys.modules)
    cpu_platform.apply()
    assert sys.meta_path == hooks
    assert set(sys.modules) == modules


def test_import_is_light() -> None:
    """The plug-in is imported by every process of a run; this module must not be what slows them down."""
    code = "import sys, verl_visionr1.runtime.cpu_platform as p; p.apply(); print(*sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key != "VERL_PLATFORM"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not {"torch", "vllm", "verl", "ray", "transformers", "hydra"} & set(done.stdout.split())


MISFITS = {
    "no such function": (cpu_platform.repair_process_group, {}),
    "another signature": (
        cpu_platform.repair_process_group,
        {"initialize_global_process_group_ray": lambda timeout: None},
    ),
    "SFT with another signature": (
        cpu_platform.repair_process_group,
        {
            "initialize_global_process_group_ray": lambda timeout_second, backend: None,
            "initialize_global_process_group": lambda: None,
        },
    ),
    "vLLM without its dispatch": (cpu_platform.repair_vllm_linear, {}),
    "vLLM's dispatch with more to say": (
        cpu_platform.repair_vllm_linear,
        {"dispatch_cpu_unquantized_gemm": lambda layer, remove_weight, packing: None},
    ),
    "no offload policy": (cpu_platform.repair_reference_offload, {}),
    "offload policy of another shape": (cpu_platform.repair_reference_offload, {"CPUOffloadPolicy": lambda: None}),
    "no engine registry": (cpu_platform.repair_engine_registry, {}),
}


@pytest.mark.parametrize(("repair", "contents"), MISFITS.values(), ids=MISFITS.keys())
def test_misfit_names_the_versions(repair: Any, contents: dict[str, object]) -> None:
    module = types.ModuleType("of_another_version")
    vars(module).update(contents)
    with pytest.raises(
        UnsupportedVersionError, match=r"Installed: verl .*, vllm-cpu .*, torch .*Install the versions of"
    ):
        repair(module)


@pytest.mark.verl
def test_a_linear_layer_in_float32_keeps_the_data_type_and_the_numbers() -> None:
    import torch

    torch.manual_seed(0)
    inputs, weight, bias = (torch.randn(*shape).bfloat16() for shape in ((5, 64), (32, 64), (32,)))
    outputs = cpu_platform.linear_in_float32(inputs, weight, bias)
    exact = inputs.double() @ weight.double().T + bias.double()
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.double(), exact, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(
        cpu_platform.linear_in_float32(inputs, weight).double(), exact - bias.double(), rtol=2**-7, atol=2**-7
    )
