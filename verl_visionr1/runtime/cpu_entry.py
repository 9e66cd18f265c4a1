"""Entry point `visionr1_cpu` of `verl.plugins`: the CPU platform, where `VERL_PLATFORM=cpu` asks for it.

verl hides an exception raised here, so it is printed before it is raised again.
"""

from __future__ import annotations

import sys
import traceback

try:
    from verl_visionr1.runtime import cpu_platform

    cpu_platform.apply()
except Exception:  # whatever it is: shown, then raised again
    print("verl-visionr1: the CPU platform could not be loaded; see `visionr1 check`.", file=sys.stderr)  # noqa: T201
    traceback.print_exc()
    raise
