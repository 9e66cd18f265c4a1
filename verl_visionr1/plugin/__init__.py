"""What verl loads to reward. `import verl` imports this module in each of its processes (`verl.plugins`).

It registers, and does nothing else: the reward manager `visionr1`, and the config groups `+visionr1@_global_=...`. verl
hides an exception raised here, so it is printed before it is raised again. What surrounds a run (CPU platform, checks,
watchdog) is in `verl_visionr1.runtime`, which nothing here imports.
"""

from __future__ import annotations

import sys
import traceback

try:
    from verl_visionr1.plugin import registration

    registration.register()
except Exception:  # whatever it is: shown, then raised again
    print("verl-visionr1: the plug-in could not be loaded; `visionr1 check` tells more.", file=sys.stderr)  # noqa: T201
    traceback.print_exc()
    raise
