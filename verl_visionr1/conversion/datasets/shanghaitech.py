"""ShanghaiTech A and B -> parquet rows for verl: counting people in crowds, and pointing to their heads.

    visionr1 convert shanghaitech ShanghaiTech/part_B shanghai_b.parquet --max-instances 200

A part is a folder (`part_A`, `part_A_final`) of `train_data` and `test_data` (`--split`), each with `images/IMG_1.jpg`
and `ground-truth/GT_IMG_1.mat` (`ground_truth` in some copies): MATLAB's `image_info{1}.location`, x and y of each
head, counted from 1, and `.number`. Part A has 33 to 3139 people per image, part B 9 to 578; `--max-instances` limits
them. Grey images stay grey.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from verl_visionr1.boxes import Point
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.counts import CountFlags, points_inside
from verl_visionr1.conversion.flags import DataSource, MaxInstances
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import read_mat
from verl_visionr1.conversion.values import points_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import read_size

PHRASES = {"counting": "person", "pointing": "head"}
"""Task -> phrase: people are counted, but heads are annotated."""


@dataclass(frozen=True, kw_only=True)
class Options(CountFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/shanghaitech_{task}"
    max_instances: MaxInstances = 200


class Crowd(NamedTuple):
    """One annotation file and its image."""

    image_id: str
    annotation: Path
    image: Path


def crowds_of(part: Path, split: str, ledger: Ledger) -> list[Crowd]:
    """Return all annotated images of a part's split, in the order of their numbers."""
    data = part / f"{split}_data"
    truth = next((data / name for name in ("ground-truth", "ground_truth") if (data / name).is_dir()), None)
    if truth is None or not (data / "images").is_dir():
        raise RowsError(f"{data}: needs images/ and ground-truth/ (or ground_truth/); check the part and --split")
    images = {path.stem: path for path in sorted((data / "images").iterdir()) if not path.name.startswith(".")}
    crowds = []
    for annotation in sorted(truth.glob("GT_*.mat"), key=_natural):
        stem = annotation.stem.removeprefix("GT_")
        image = images.pop(stem, data / "images" / f"{stem}.jpg")  # a missing file fails when opened
        crowds.append(Crowd(f"{part.absolute().name}/{split}_data/{stem}", annotation, image.absolute()))
    ledger.left_out["image without an annotation file"] += len(images)
    return crowds


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts IMG_2 before IMG_10."""
    return [(int(piece), "") if piece.isdecimal() else (0, piece) for piece in re.split(r"(\d+)", path.name)]


def heads_of(annotation: Path, where: str) -> list[Point]:
    """Return the heads of an annotation file, 0-based."""
    try:
        info = read_mat(annotation)["image_info"][0, 0][0, 0]
        number = int(np.asarray(info["number"]).item())
        pairs: Any = np.asarray(info["location"], dtype=float).reshape(-1, 2).tolist()
    except (KeyError, IndexError, TypeError, ValueError) as error:
        shown = f"needs image_info{{1}}.location and .number ({type(error).__name__}: {error})"
        raise RowError("mat file of another layout", f"{where}: {shown}; is it the right file?") from None
    if len(pairs) != number:
        raise RowError("count and points differ", f"{where}: number is {number}, points are {len(pairs)}; correct it")
    return [(x - 1, y - 1) for x, y in points_of(pairs, where)]


def _items(crowd: Crowd, options: Options, ledger: Ledger) -> Iterator[Item]:
    """Yield an item for each task."""
    where = f"{crowd.image_id}: {crowd.annotation.name}"
    heads = heads_of(crowd.annotation, where)
    size_wh, _ = read_size(crowd.image)
    for task in options.tasks:
        yield Item(
            where=where,
            image=crowd.image,
            task=task,
            phrases=(PHRASES[task],),
            points_xy=points_inside(heads, size_wh, ledger) if task == "counting" else heads,
            count=len(heads),
            image_id=crowd.image_id,
            file_name="/".join(crowd.image.parts[-4:]),  # `IMG_1.jpg` is in both parts and splits
            source_ann={"file": crowd.annotation.name},
        )


@converter("counting", "pointing", example="part_A part_B shanghai_test.parquet --split test --max-instances 500")
def convert(parts: Annotated[list[Path], "part_A, part_B, or both."], options: Options, ledger: Ledger) -> Reading:
    """The rows of the parts' folders."""
    crowds = [crowd for part in parts for crowd in crowds_of(part, options.split, ledger)]
    return Reading(
        items=ledger.each(_items, ((crowd, options, ledger) for crowd in crowds)),
        files=[crowd.annotation for crowd in crowds if crowd.annotation.is_file()],
        name=", ".join(part.absolute().name for part in parts),
        total=len(crowds) * len(options.tasks),
    )
