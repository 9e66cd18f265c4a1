"""The core loads no framework, and imports in the package go one way only. Both checks are shown to be able to fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {
    *["verl", "ray", "torch", "torchvision", "transformers", "vllm", "tensordict", "hydra", "omegaconf", "datasets"],
    *["pandas", "pyarrow", "PIL", "matplotlib", "typer", "rich"],
}
PURE = [
    *["boxes", "masks", "frames", "processed", "functions", "settings", "targets", "answers", "matching", "criteria"],
    *["schedule", "gate", "rewards"],
]


def packages_loaded_by(code: str) -> set[str]:
    """Top-level modules outside the standard library that `code` loads in a fresh interpreter."""
    program = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()} - set(sys.stdlib_module_names)


def test_the_facade_loads_numpy_and_msgspec_and_nothing_else() -> None:
    # typing_extensions comes with msgspec where it is installed.
    assert packages_loaded_by("import verl_visionr1") - {"typing_extensions"} == {"verl_visionr1", "numpy", "msgspec"}


def test_scoring_loads_scipy_and_no_framework() -> None:
    code = (
        "from verl_visionr1 import PRESETS, Target, score; "
        "t = Target(task='grounding', size_wh=(9, 9), boxes_xyxy=[[0, 0, 5, 5], [1, 1, 6, 6]], labels=['a', 'a']); "
        """text = '[{"bbox_2d": [0, 0, 4, 4], "label": "a"}, {"bbox_2d": [0, 0, 3, 3], "label": "a"}]'; """
        "[score(text, t, preset=p) for p in PRESETS.values() if 'grounding' in p.tasks]"
    )
    loaded = packages_loaded_by(code)
    assert "scipy" in loaded
    assert not loaded & HEAVY


def test_no_module_of_the_core_loads_a_framework() -> None:
    assert not packages_loaded_by(f"from verl_visionr1 import {', '.join(PURE)}") & HEAVY


def test_the_purity_check_can_fail() -> None:
    assert "PIL" in packages_loaded_by("import verl_visionr1, PIL")


def lint_imports(config: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_imports_go_one_way() -> None:
    run = lint_imports(ROOT / "pyproject.toml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


def test_the_import_check_can_fail(tmp_path: Path) -> None:
    swapped = re.sub(
        r'"matching", "(answers [^"]*)"', r'"\1", "matching"', (ROOT / "pyproject.toml").read_text(), count=1
    )
    (tmp_path / "pyproject.toml").write_text(swapped)
    run = lint_imports(tmp_path / "pyproject.toml")
    assert (run.returncode, "1 broken" in run.stdout) == (1, True), run.stdout + run.stderr
