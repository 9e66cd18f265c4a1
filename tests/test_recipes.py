"""Every recipe explains itself and names keys that exist; the training runs are in test_end_to_end.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = sorted(
    path
    for path in (Path(__file__).parent.parent / "recipes").glob("*.sh")
    if 'launch "$@"' in path.read_text().splitlines()[-1]
)


def bash(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "VISIONR1_SKIP_SETUP": "1", "PATH": path, **environment},
    )


def test_there_are_recipes() -> None:
    assert [path.name for path in RECIPES] == ["tiny_visionr1_cpu.sh"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_help_explains_the_knobs(recipe: Path) -> None:
    done = bash(recipe, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for knob in ("RUN_DIR", "TOTAL_STEPS", "STAGES", "WEIGHTS", "SEED", "--fresh"):
        assert knob in done.stdout


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    small = {"RUN_DIR": str(tmp_path), "TRAIN_SCENES": "4", "VAL_SCENES": "2", "MODEL_PATH": str(tmp_path / "nothing")}
    done = bash(RECIPES[0], **small)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: MODEL_PATH={tmp_path}/nothing: no config.json")


def test_an_unknown_option_is_one_line(tmp_path: Path) -> None:
    done = bash(RECIPES[0], "--frsh", RUN_DIR=str(tmp_path), TRAIN_SCENES="4", VAL_SCENES="2")
    assert done.returncode == 1
    assert "error: unknown option --frsh; see --help" in done.stderr
