"""The plug-in that verl loads: `import verl` imports this module in each of its processes (`verl.plugins`).

It only registers the reward manager `visionr1` and the config groups `+visionr1@_global_=...`. verl hides an exception
raised here, so it is printed before it is raised again. What surrounds a run (CPU platform, checks, watchdog) is in
`verl_visionr1.runtime`, which nothing here imports.
"""

from __future__ import annotations

import sys
import traceback

try:
    from verl_visionr1.plugin import registration

    registration.register()
except Exception:  # any error is printed, then raised again
    print("verl-visionr1: the plug-in could not be loaded; see `visionr1 check`.", file=sys.stderr)  # noqa: T201
    traceback.print_exc()
    raise
