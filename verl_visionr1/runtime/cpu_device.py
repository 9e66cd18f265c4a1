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

    @property
    def device_name(self) -> str:
        """torch's name of the device."""
        return "cpu"

    @property
    def vendor_name(self) -> str:
        """None: verl looks up engines by vendor first."""
        return "cpu"

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
        """1, for any number of cores."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Do nothing: there is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Do nothing: nothing runs asynchronously."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing: the C allocator has no such settings."""

    def empty_cache(self) -> None:
        """Do nothing: there is no cache."""

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

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

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

        1 GiB of key-value cache (vLLM would take a share of all memory), threads left to the scheduler (vLLM would pin
        them to cores that the training workers use as well), and no torch.compile: it needs a C++ compiler, and took a
        large part of vLLM's start-up for the sampler's few functions.
        """
        ours = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCH_COMPILE_DISABLE": "1"}
        return {name: os.environ.get(name, value) for name, value in ours.items()}

    def cudart(self) -> None:
        """No CUDA runtime."""


@functools.cache
def device_module() -> types.ModuleType:
    """`torch.cpu` with the functions that verl needs and `torch.cpu` lacks.

    Memory figures are those of the process (resident, peak) and of the machine, in bytes, so that verl's
    `perf/max_memory_*` are meaningful. There is no cache and no handle to collect; limits are ignored.
    """

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
