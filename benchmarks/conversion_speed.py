"""What a conversion costs: images/s a core, and peak memory, beside `cp -r` and `datasets.map` in the same run.

    python benchmarks/conversion_speed.py --folder /tmp/conversion       # minutes, 6 GB of disk

Makes 2,000 synthetic JPEGs (640 x 480, about 160 KB), converts them by path and embedded, once more as 20,000 rows
(hard links), and reads an annotation file of COCO train's size (118,000 images, 850,000 boxes). Each line is a process
of its own: wall seconds, seconds of CPU, images per second of CPU, and the largest memory it had.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

COCO = Path(__file__).resolve().parents[1] / "data_preprocess" / "coco.py"
N_IMAGES, N_MANY = 2_000, 20_000
TRAIN_IMAGES, TRAIN_BOXES = 118_000, 850_000
READ_ONLY = """
import sys
from pathlib import Path
from verl_visionr1.conversion.coco_json import read_coco
from verl_visionr1.conversion.ledger import Ledger
data = read_coco(Path(sys.argv[1]), Path(sys.argv[2]), Ledger())
assert len(data.images) == int(sys.argv[3])
"""
GEO3K_STYLE = """
import sys
from pathlib import Path
import datasets
from PIL import Image
files = sorted(map(str, Path(sys.argv[1]).glob("*.jpg")))
def rows():
    for file in files:
        yield {"image": {"bytes": Path(file).read_bytes(), "path": None}}
features = datasets.Features({"image": datasets.Image()})
made = datasets.Dataset.from_generator(rows, features=features, cache_dir=sys.argv[2])
made.map(lambda row: {"images": [row["image"]]}, remove_columns=["image"]).to_parquet(sys.argv[2] + "/out.parquet")
"""


@dataclass(frozen=True)
class Cost:
    """What one process took: seconds, and MiB at its peak."""

    wall: float
    cpu: float
    peak: float


def run(*command: object) -> Cost:
    """Run a command, alone, and measure it with its children."""
    started = time.perf_counter()
    pid = os.posix_spawnp(str(command[0]), [str(word) for word in command], {**os.environ, "HF_HUB_OFFLINE": "1"})
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"failed: {command}")
    return Cost(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def _draw(job: tuple[Path, int]) -> None:
    folder, number = job
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 17, (480, 640, 3))
    pixels = np.clip(np.asarray(image, dtype=float) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{number:012d}.jpg", quality=90)


def make_images(folder: Path) -> None:
    """The 2,000 images; kept from an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(folder, i) for i in range(N_IMAGES) if not (folder / f"{i:012d}.jpg").exists()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_draw, missing, chunksize=50))


def link_images(source: Path, folder: Path, count: int) -> None:
    """`count` hard links to the images."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:012d}.jpg"
        if not path.exists():
            os.link(source / f"{i % N_IMAGES:012d}.jpg", path)


def write_annotations(path: Path, n_images: int, n_boxes: int) -> None:
    """COCO json with polygons, as long as COCO's own."""
    rng = random.Random(0)
    images = [
        {
            **{"license": 4, "file_name": f"{i:012d}.jpg", "coco_url": f"http://images.example/{i:012d}.jpg"},
            **{"height": 480, "width": 640, "date_captured": "2013-11-14 17:02:52", "id": i},
        }
        for i in range(n_images)
    ]
    with open(path, "w") as file:
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for i, annotation in enumerate(_annotations(rng, n_images, n_boxes)):
            file.write(", " * (i > 0) + json.dumps(annotation))
        categories = [{"supercategory": "thing", "id": i, "name": f"thing {i}"} for i in range(1, 81)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _annotations(rng: random.Random, n_images: int, n_boxes: int) -> Iterator[dict[str, object]]:
    for i in range(n_boxes):
        x, y = rng.uniform(0, 500), rng.uniform(0, 350)
        w, h = rng.uniform(5, 639 - x), rng.uniform(5, 479 - y)
        polygon = [round(rng.uniform(0, 640), 2) for _ in range(56)]
        box = [round(value, 2) for value in (x, y, w, h)]
        facts = {"segmentation": [polygon], "area": round(w * h, 2), "iscrowd": 0, "image_id": i * n_images // n_boxes}
        yield {**facts, "bbox": box, "category_id": rng.randint(1, 80), "id": i + 1}


def show(name: str, cost: Cost, n_images: int) -> None:
    """One line of the table."""
    rate = f"{n_images / cost.cpu:8.0f} images/cpu-s"
    typer.echo(f"{name:52} {cost.wall:7.2f} s {cost.cpu:7.2f} cpu-s {rate} {cost.peak:6.0f} MiB")


def main(
    folder: Annotated[Path, typer.Option(help="where to work; images are kept there for the next run")],
    repeats: Annotated[int, typer.Option(help="runs of each line; the fastest is shown")] = 3,
    train: Annotated[bool, typer.Option(help="also an annotation file of COCO train's size")] = True,
) -> None:
    """Measure conversions."""
    images = folder / "images"
    make_images(images)
    size = sum(path.stat().st_size for path in images.iterdir())
    typer.echo(f"{N_IMAGES} images of {size / N_IMAGES / 1024:.0f} KiB")
    annotations = folder / "instances.json"
    write_annotations(annotations, N_IMAGES, 12_500)

    def best(name: str, n_images: int, *command: object) -> None:
        costs = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                costs.append(run(*(str(word).replace("SCRATCH", scratch) for word in command)))
        show(name, min(costs, key=lambda cost: cost.cpu), n_images)

    convert = (
        sys.executable,
        COCO,
        annotations,
        images,
        "SCRATCH/out.parquet",
        "--task",
        "detection",
        "--max-instances",
        500,
    )
    best("cp -r", N_IMAGES, "cp", "-r", images, "SCRATCH/copy")
    for workers in (1, 2):
        best(f"coco.py, paths, {workers} thread(s)", N_IMAGES, *convert, "--workers", workers)
        best(f"coco.py --embed, {workers} thread(s)", N_IMAGES, *convert, "--embed", "--workers", workers)
    best(
        "datasets.map of PIL images, to_parquet (geo3k's way)",
        N_IMAGES,
        sys.executable,
        "-c",
        GEO3K_STYLE,
        images,
        "SCRATCH",
    )
    many, listed = folder / "many", folder / "many.json"
    link_images(images, many, N_MANY)
    write_annotations(listed, N_MANY, 125_000)
    convert = (sys.executable, COCO, listed, many, "SCRATCH/out.parquet", "--task", "detection", "--max-instances", 500)
    best("coco.py, paths, 20,000 rows", N_MANY, *convert)
    best("coco.py --embed, 20,000 rows", N_MANY, *convert, "--embed")
    if train:
        listed, linked = folder / "train.json", folder / "train"
        write_annotations(listed, TRAIN_IMAGES, TRAIN_BOXES)
        typer.echo(f"{TRAIN_IMAGES} images, {TRAIN_BOXES} boxes, {listed.stat().st_size / 2**20:.0f} MiB of json")
        link_images(images, linked, TRAIN_IMAGES)
        best("reading it", TRAIN_IMAGES, sys.executable, "-c", READ_ONLY, listed, linked, TRAIN_IMAGES)
        convert = (sys.executable, COCO, listed, linked, "SCRATCH/out.parquet", "--max-instances", 500)
        best("coco.py, paths, detection and grounding", TRAIN_IMAGES, *convert)
        for path in (many, linked):
            shutil.rmtree(path)


if __name__ == "__main__":
    typer.run(main)
