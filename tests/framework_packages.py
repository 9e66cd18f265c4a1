"""Packages of other frameworks, unpacked without their dependencies into a cache: real classes, no installs.

`VISIONR1_PACKAGES` names the folder of the cache; default: `verl-visionr1/packages` in the user's cache folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def unpacked(*requirements: str) -> Path:
    """A folder for `PYTHONPATH` that holds these packages, and nothing that they depend on.

    It is made at the first call, from the package index. Without one the test is skipped, in CI it fails.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "verl-visionr1" / "packages"
    cache = Path(os.environ.get("VISIONR1_PACKAGES") or default).expanduser()
    folder = cache / "+".join(requirements)
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=cache))
    run = subprocess.run([*_installer(), "--target", str(part), *requirements], capture_output=True, text=True)
    if run.returncode:
        shutil.rmtree(part)
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{' '.join(requirements)}: {run.stderr.strip()[-300:]}")
    try:
        part.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(part)
    return folder


def _installer() -> list[str]:
    uv = shutil.which("uv") or str(ROOT / ".venv-bootstrap" / "bin" / "uv")
    if Path(uv).is_file():
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    return [shutil.which("pip") or "pip3", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]


def run_with(folder: Path, script: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the tests with a folder of `unpacked` first on its path."""
    path = os.pathsep.join((str(folder), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **variables}
    command = [sys.executable, str(script), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run
