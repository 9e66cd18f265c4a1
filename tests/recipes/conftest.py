"""What tests of recipes share."""

from __future__ import annotations

from pathlib import Path

import pytest
from launcher import PYTHON, RECIPE, ROOT, Launcher


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    """A recipe, its data and model, and programs that write down how they are called."""
    for folder in ("bin", "data", "model"):
        (tmp_path / folder).mkdir()
    for name in ("data/train.parquet", "data/val.parquet"):
        (tmp_path / name).touch()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "recipe.sh").write_text(RECIPE.replace("ROOT", str(ROOT)))
    for name in ("python", "visionr1"):
        (tmp_path / "bin" / name).write_text(PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    return Launcher(tmp_path)
