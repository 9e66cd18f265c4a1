"""Installs from the package index: the wheel and the extra for GPUs in empty environments; do the pins still fit?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from verl_visionr1 import Target

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12")


def run(*words: object, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> Path:
    """The one that made this environment."""
    return Path(shutil.which("uv") or ROOT / ".venv-bootstrap" / "bin" / "uv")


@pytest.fixture(scope="module")
def scripts(uv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of an environment that has the built wheel and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(uv, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, f"verl-visionr1[data] @ {wheel.as_uri()}", cwd=folder)
    return python.parent


def test_the_wheel_converts_and_scores(scripts: Path, tmp_path: Path) -> None:
    assert "convert" in run(scripts / "visionr1", "--help", cwd=tmp_path)
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 640, "height": 480}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [64, 48, 64, 48]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    run(scripts / "visionr1", "convert", "coco", "coco.json", ".", "rows.parquet", "--task", "detection", cwd=tmp_path)
    target = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[64, 48, 128, 96]], labels=["cat"])
    output = '[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]'  # thousandths of the image
    line = {"input": "Find the cat.", "output": output, "gts": target.to_json(), "score": 1.0, "step": 1}
    (tmp_path / "1.jsonl").write_text(json.dumps(line) + "\n")
    words = ("score", "1.jsonl", "--frame", "qwen3-vl", "--total-steps", "1", "--json")
    saved = json.loads(run(scripts / "visionr1", *words, cwd=tmp_path))["saved"]
    assert (saved["n"], saved["equal"]) == (1, 1.0)


def test_the_wheel_holds_all_modules(scripts: Path, tmp_path: Path) -> None:
    where = run(scripts / "python", "-c", "import verl_visionr1; print(verl_visionr1.__path__[0])", cwd=tmp_path)
    tracked = run("git", "ls-files", "verl_visionr1", cwd=ROOT).split()
    assert [name for name in tracked if not (Path(where.strip()).parent / name).is_file()] == []


def test_the_extra_for_gpus_is_installed_and_a_recipe_is_checked_with_it(tmp_path: Path) -> None:
    """As a user does it, from a clone: some 10 GB, a few minutes. Neither needs a GPU."""
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", ROOT, clone, cwd=tmp_path)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("VISIONR1_")}
    env = plain | {"VISIONR1_OWN_ENV": "1"}  # the Python of these tests has verl
    run("bash", "recipes/qwen2vl_7b_visionr1.sh", "--dry-run", cwd=clone, env=env)
    python = clone / ".venv" / "bin" / "python"
    versions = run(python, "-c", "import vllm, verl, torch; print(vllm.__version__, torch.__version__)", cwd=tmp_path)
    assert "+cpu" not in versions
    pinned = (ROOT / "recipes" / "constraints-gpu.txt").read_text()
    assert f"vllm=={versions.split()[0]}" in pinned


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_the_pinned_versions_can_be_installed(uv: Path, extra: str, python: str) -> None:
    """The index has them all, and they fit together: resolved, not installed."""
    words = (uv, "pip", "compile", "--quiet", "--python-version", python, "--python-platform", "x86_64-manylinux_2_28")
    words = (*words, "--extra", extra, "--extra", "dev", "--constraints", f"recipes/constraints-{extra}.txt")
    pinned = run(*words, "--no-header", "--no-annotate", "pyproject.toml", cwd=ROOT)
    assert "verl==" in pinned
