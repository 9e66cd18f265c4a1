"""The platform "cpu" for verl; imported by `cpu_platform.register_platform` once verl is loaded."""

from __future__ import annotations

import functools
import os
import resource
import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from verl.plugin.platform.platform_base import PlatformBase


class PlatformCPU(PlatformBase):
    """The CPU as verl's accelerator: one device, no pinned memory, no IPC handles, gloo for communication."""

    device_name = "cpu"  # type: ignore[assignment]  # properties in verl
    vendor_name = "cpu"  # type: ignore[assignment]  # verl looks up engines by vendor first

    @property
    def device_module(self) -> types.ModuleType:
        """What `verl.utils.device.get_torch_device()` returns."""
        return device_module()

    def is_available(self) -> bool:
        """True: a CPU is always available."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """False: not found by probing; only `VERL_PLATFORM=cpu` chooses it, also on machines with GPUs."""
        return False

    def current_device(self) -> torch.device:  # type: ignore[override]  # verl only ever writes tensor.to(current_device())
        """A device, not an index: torch reads a bare index as that of a GPU."""
        return torch.device("cpu")

    def device_count(self) -> int:
        """Always 1: all cores are one device."""
        return 1

    def manual_seed(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def _ignore(self, *_args: object, **_kwargs: object) -> None:
        return None

    # There is one device, without cache, profiler, CUDA runtime; nothing runs asynchronously.
    set_device = synchronize = set_allocator_settings = empty_cache = profiler_start = profiler_stop = cudart = _ignore

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        """(None, None): not applicable outside CUDA."""
        return None, None

    def communication_backend_name(self) -> str:
        """The backend of collective communication."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """The variable that Ray sets for its resource "GPU"; verl only passes the value on."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:  # type: ignore[override]  # verl annotates the undecorated one
        """No profiler ranges."""
        yield

    def ray_resource_name(self) -> str:
        """A logical slot per training worker: verl counts only "GPU" and "NPU" for its pools."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Empty: Ray may set the visible devices."""
        return []

    def is_ipc_supported(self) -> bool:
        """False: weights then travel to vLLM through POSIX shared memory."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """Environment of vLLM's processes; the user's environment takes precedence.

        Else vLLM takes a share of all memory for its cache, pins threads to cores that training uses, and compiles.
        """
        ours = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1"}
        return {name: os.environ.get(name, value) for name, value in ours.items()}


@functools.cache
def device_module() -> types.ModuleType:
    """`torch.cpu` with the functions that verl needs and `torch.cpu` lacks; memory in bytes, of process and machine."""

    def ignore(*_args: object, **_kwargs: object) -> None:
        return None

    module = types.ModuleType("torch_cpu_as_verl_device")
    vars(module).update({name: value for name, value in vars(torch.cpu).items() if not name.startswith("__")})
    vars(module).update(
        memory_allocated=lambda *_: _resident_bytes(),
        memory_reserved=lambda *_: _resident_bytes(),
        max_memory_allocated=lambda *_: _peak_resident_bytes(),
        max_memory_reserved=lambda *_: _peak_resident_bytes(),
        mem_get_info=lambda *_: _free_and_total_bytes(),
        get_device_name=lambda *_: "CPU",
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        empty_cache=ignore,
        ipc_collect=ignore,
        reset_peak_memory_stats=ignore,
        set_per_process_memory_fraction=ignore,
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
    )
    return module


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _peak_resident_bytes() -> int:
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in kibibytes, updated lazily
    return max(counted, _resident_bytes())


def _free_and_total_bytes() -> tuple[int, int]:
    with open("/proc/meminfo") as meminfo:
        kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo}
    return kibibytes["MemAvailable"] * 1024, kibibytes["MemTotal"] * 1024
