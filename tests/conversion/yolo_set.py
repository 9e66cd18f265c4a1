"""A YOLO data set: images/train and labels/train under a data.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from scene_sets.base import rows_in

from verl_visionr1.conversion.datasets import yolo
from verl_visionr1.conversion.writing import Report
from verl_visionr1.files import RowsError
from verl_visionr1.targets import Target

WH = (160, 96)
NAMES = ["red box", "green box"]
A = "0 0.175 0.2916666666666667 0.25 0.25"  # 8, 16, 48, 40
A_XYXY = (8, 16, 48, 40)


class Folder:
    """images/train and labels/train under a data.yaml."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.document: dict[str, Any] = {"train": "images/train", "names": NAMES}
        root.mkdir()

    def add(self, name: str, *lines: str, labels: bool = True, **options: Any) -> Path:
        """images/<name>.png, and its label file by Ultralytics' rule."""
        path = self.root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", WH, (90, 90, 90)).save(path, **options)
        if labels:
            text = Path(str(path.with_suffix(".txt")).replace("/images/", "/labels/"))
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("\n".join(lines))
        return path

    def convert(self, source: Path | None = None, **options: Any) -> tuple[list[Target], Report]:
        if source is None:
            source = self.root / "data.yaml"
            source.write_text(yaml.safe_dump(self.document))
        report = yolo.convert(source, self.root / "out.parquet", yolo.Options(**{"task": "detection", **options}))
        return [Target.from_json(row["reward_model"]["ground_truth"]) for row in rows_in(report)], report

    def bad(self, source: Path | None = None, kind: type[RowsError] = RowsError, **options: Any) -> str:
        """The message of a conversion that fails."""
        with pytest.raises(kind) as caught:
            self.convert(source, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)


def names_of(report: Report) -> list[str]:
    return [row["extra_info"]["file_name"] for row in rows_in(report)]
