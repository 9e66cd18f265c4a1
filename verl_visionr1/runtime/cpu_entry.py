"""Entry point `visionr1_cpu` of `verl.plugins`: the CPU platform, if `VERL_PLATFORM=cpu`.

verl hides an exception raised here, so it is printed before it is raised again.
"""

from __future__ import annotations

import sys
import traceback

try:
    from verl_visionr1.runtime import cpu_platform

    cpu_platform.apply()
except Exception:  # any error is printed, then raised again
    print("verl-visionr1: the CPU platform could not be loaded; see `visionr1 check`.", file=sys.stderr)  # noqa: T201
    traceback.print_exc()
    raise
