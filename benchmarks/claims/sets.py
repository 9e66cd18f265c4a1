"""The held-out sets of the study: scenes that no model was trained on, in and out of the domain of the training scenes.

Every set but `counts` asks for all objects of a list of categories, like the training data of the recipe. The training
scenes show 2 or 3 objects of 12 categories on 128x128 pixels. Each set out of domain changes one property; unless this
is the number of objects, it shows 1 to 3. `counts` asks for all objects of one category, of which there are 0 to 4.

    python benchmarks/claims/sets.py outputs/claims/sets        # writes <set>.parquet; the same bytes every time
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image

from verl_visionr1.conversion import scenes
from verl_visionr1.conversion.datasets import coco

SEED = 0
MOST = 4
"""The largest count that the sets of counting ask for."""
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True, kw_only=True)
class HeldOutSet:
    """A set of scenes.

    Attributes:
        name: name of its file and data source.
        differs: its difference from the training scenes; "" for the set in domain.
        n_scenes: number of scenes; each gives one row.
        size_wh, objects_min, objects_max, gap: see `scenes.draw_scene`.
        change: applied to the drawn image; boxes do not change.
        task: what the rows ask for.
    """

    name: str
    differs: str
    n_scenes: int = 500
    size_wh: tuple[int, int] = (128, 128)
    objects_min: int = 1
    objects_max: int = 3
    gap: int = 2
    change: Change | None = None
    task: Literal["detection", "counting"] = "detection"


def darken_and_add_noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Halve the brightness, and add Gaussian noise with a standard deviation of 16 levels."""
    pixels = np.asarray(image, dtype=np.float64) * 0.5
    return Image.fromarray(np.clip(pixels + rng.normal(0, 16, pixels.shape), 0, 255).astype(np.uint8), "RGB")


def shift_hues(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotate all hues of the image by the same 8 to 20 degrees, in either direction."""
    degrees = rng.uniform(8, 20) * rng.choice([-1, 1])
    hsv = np.asarray(image.convert("HSV")).copy()
    hsv[..., 0] = (hsv[..., 0].astype(int) + round(degrees / 360 * 256)) % 256
    return Image.fromarray(hsv, "HSV").convert("RGB")


SETS = (
    HeldOutSet(name="fewer_objects", differs="1 to 3 objects instead of 2 or 3", n_scenes=1000),
    HeldOutSet(name="more_objects", differs="4 to 6 objects instead of 2 or 3", objects_min=4, objects_max=6),
    HeldOutSet(name="overlapping", differs="objects that overlap by up to 24 pixels", objects_min=2, gap=-24),
    HeldOutSet(name="wide", differs="192x96 pixels instead of 128x128", size_wh=(192, 96)),
    HeldOutSet(name="large", differs="160x160 pixels instead of 128x128", size_wh=(160, 160)),
    HeldOutSet(name="dark_noisy", differs="half as bright, with noise", change=darken_and_add_noise),
    HeldOutSet(name="shifted_hues", differs="colours turned by 8 to 20 degrees of hue", change=shift_hues),
    HeldOutSet(name="in_domain", differs="", n_scenes=1000, objects_min=2),
    HeldOutSet(name="counts", differs="", n_scenes=1500, objects_min=3, objects_max=6, task="counting"),
)
"""All sets. None has unseen pairs of colour and shape: the tiny model was trained on all pairs."""

COUNTS_TRAIN = HeldOutSet(name="counts_train", differs="", n_scenes=1500, objects_min=3, objects_max=6, task="counting")
"""What the arms that count are trained on."""


def draw(held_out: HeldOutSet, folder: Path) -> Path:
    """Draw a set and convert it.

    Returns:
        `folder/<name>.parquet`; an existing file is unchanged.
    """
    parquet = folder / f"{held_out.name}.parquet"
    if parquet.is_file():
        return parquet
    images_dir = folder / "scenes" / held_out.name
    images_dir.mkdir(parents=True, exist_ok=True)
    annotations = folder / "scenes" / f"{held_out.name}.json"
    annotations.write_text(json.dumps(_draw_images(held_out, images_dir)))
    options = coco.Options(
        split="val",
        task=held_out.task,
        negatives=0.1 if held_out.task == "counting" else 0,
        count_format="qwen-json",
        data_source=f"claims/{held_out.name}",
    )
    if held_out.task == "detection":
        coco.convert(annotations, images_dir, parquet, options)
        return parquet
    whole = annotations.with_suffix(".parquet")
    coco.convert(annotations, images_dir, whole, options)
    pq.write_table(balance(pq.read_table(whole)), parquet)
    return parquet


def balance(rows: pa.Table) -> pa.Table:
    """Keep as many rows of each count from 0 to `MOST`, the first ones, as there are of the rarest."""
    texts = rows["reward_model"].combine_chunks().field("ground_truth").to_pylist()
    counts = np.array([json.loads(text)["count"] for text in texts])
    by_count = [np.flatnonzero(counts == count) for count in range(MOST + 1)]
    fewest = min(map(len, by_count))
    return rows.take(np.sort(np.concatenate([each[:fewest] for each in by_count])))


def _draw_images(held_out: HeldOutSet, images_dir: Path) -> dict[str, Any]:
    """Write the images; return the COCO annotations."""
    number = [each.name for each in (*SETS, COUNTS_TRAIN)].index(held_out.name)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(held_out.n_scenes):
        rng = scenes.scene_rng(SEED, "claims", 100_000 * number + index)
        image, scene = scenes.draw_scene(
            rng,
            size_wh=held_out.size_wh,
            objects_min=held_out.objects_min,
            objects_max=held_out.objects_max,
            gap=held_out.gap,
        )
        record = scenes.image_record(index, scene)
        (held_out.change(image, rng) if held_out.change else image).save(images_dir / record["file_name"])
        images.append(record)
        annotations.extend(scenes.annotation_records(scene, record["id"], len(annotations)))
    return {"images": images, "annotations": annotations, "categories": scenes.category_records()}


def main(folder: Annotated[Path, typer.Argument(help="Folder to write; made if missing.")]) -> None:
    """Draw all sets of the study."""
    for held_out in (*SETS, COUNTS_TRAIN):
        typer.echo(f"{draw(held_out, folder)}: {held_out.n_scenes} scenes; {held_out.differs or 'as in training'}")


if __name__ == "__main__":
    typer.run(main)
