"""A pickle that runs a command when a plain unpickler opens it."""

from __future__ import annotations

import os
from pathlib import Path


class Hostile:
    """Its command makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.path}'",)
