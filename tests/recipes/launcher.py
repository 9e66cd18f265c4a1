"""recipes/launch.sh with a pretended verl: a recipe, its data and model, and a run folder."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = """#!/usr/bin/env bash
# A recipe for the tests of the launcher.
set -euo pipefail
source ROOT/recipes/launch.sh
profile qwen2-vl both
TOTAL_STEPS=${TOTAL_STEPS:-5}
train_data train.parquet coco.py annotations.json images OUT
val_data val.parquet coco.py annotations.json images OUT
launch "$@"
"""
# Notes arguments and environment; `-m verl.trainer.main_ppo` then does what VERL says. Is asked for flash_attn: FLASH.
PYTHON = f"""#!{sys.executable}
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
if "find_spec" in " ".join(sys.argv):
    sys.exit(not os.path.exists(here + "/has_flash_attn"))
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps([os.path.basename(__file__), sys.argv[1:], dict(os.environ)]) + "\\n")
if os.path.basename(__file__) == "visionr1":
    if sys.argv[1] == "plan":
        print("planned=yes")
elif "verl.trainer.main_ppo" in sys.argv:
    exec(os.environ.get("VERL", ""))
"""


@dataclass
class Launcher:
    """A recipe, its data and model, and a run folder."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    def command(self, **environment: str) -> dict[str, str]:
        return {
            "PATH": f"{self.root}/bin:/usr/bin:/bin",
            "VISIONR1_SKIP_SETUP": "1",
            "VISIONR1_MIN_FREE_GB": "0.001",
            "RUN_DIR": str(self.run_dir),
            "DATA_DIR": str(self.root / "data"),
            "MODEL_PATH": str(self.root / "model"),
            **environment,
        }

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.root / "bin" / "calls").unlink(missing_ok=True)
        words = ("bash", f"{self.root}/recipe.sh", *words)
        env = self.command(**environment)
        return subprocess.run(words, capture_output=True, text=True, timeout=60, env=env, cwd=self.root)

    def shell(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Functions of the launcher, called alone."""
        command = f"set -euo pipefail; source {ROOT}/recipes/launch.sh; {command}"
        env = self.command(**environment)
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, env=env)

    @property
    def calls(self) -> list[tuple[str, list[str], dict[str, str]]]:
        path = self.root / "bin" / "calls"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def called(self, program: str, word: str) -> list[tuple[list[str], dict[str, str]]]:
        """Arguments and environment of each call of a program with that word."""
        return [(words, environment) for name, words, environment in self.calls if name == program and word in words]

    @property
    def trained(self) -> int:
        return len(self.called("python", "verl.trainer.main_ppo"))

    @property
    def overrides(self) -> list[str]:
        ((words, _),) = self.called("python", "verl.trainer.main_ppo")
        return words[2:]
