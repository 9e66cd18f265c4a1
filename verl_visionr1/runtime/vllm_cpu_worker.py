"""Use training's linear layers in vLLM's CPU workers for `visionr1 eval`, so that answers are the same.

vLLM imports the module of its `worker_extension_cls` in each worker before it loads a model.
"""

from __future__ import annotations

import sys

from verl_visionr1.runtime.cpu_platform import use_plain_linear

_NAME = "dispatch_cpu_unquantized_gemm"

for _module in [module for name, module in sys.modules.items() if name.startswith("vllm.")]:
    if hasattr(_module, _NAME):  # also if it was imported by name
        setattr(_module, _NAME, use_plain_linear)


class PlainLinear:
    """Only the import of this module matters."""
