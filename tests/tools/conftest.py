"""A converted data set of drawn scenes, and a copy that may be spoiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from doctor_rows import N_IMAGES, SIZE
from gallery_runs import Run, make_run

from verl_visionr1.conversion import scenes
from verl_visionr1.conversion.datasets import coco


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.parquet and val.parquet of detection and grounding, with negatives."""
    folder = tmp_path_factory.mktemp("clean")
    for split in ("train", "val"):
        annotations = scenes.write_split(folder / "scenes", split, count=N_IMAGES, seed=3, size_wh=SIZE, objects_max=4)
        options = coco.Options(task="both", negatives=0.1, split=split)
        coco.convert(annotations, folder / "scenes" / split, folder / f"{split}.parquet", options)
    return folder


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    for split in ("train", "val"):
        shutil.copy(clean / f"{split}.parquet", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training run of four steps, for galleries; read only."""
    return make_run(tmp_path_factory.mktemp("run"), n_prompts=12, n_samples=4, n_steps=4, n_validated=3)
