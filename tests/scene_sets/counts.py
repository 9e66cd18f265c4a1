"""Data sets of counting: numbers, questions and points."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

from scene_sets.base import NAMES, Canon, Picture, SceneFormat, counting, pointing
from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.conversion.datasets import clevr, countbench, fsc147, pixmo, shanghaitech, tallyqa
from verl_visionr1.targets import Target


def asked(label: str) -> str:
    """A question as these data sets ask it."""
    return f"How many {label} are there in the image?"


def with_questions(rows: list[Canon]) -> list[Canon]:
    """Rows of counting, asked by a question instead of the package's wording."""
    return [
        (number, task, f"<image>{asked(json.loads(truth)['categories'][0])} Answer with the number alone.", truth)
        for number, task, _, truth in rows
    ]


def questions_alone(pictures: Sequence[Picture]) -> list[Canon]:
    """Rows of data sets that say what is counted only in their question."""
    rows = []
    for (number, task, prompt, truth), picture in zip(
        with_questions(counting(pictures, boxes=False)), [p for p in pictures for _ in p.labels], strict=True
    ):
        target = Target(task="counting", size_wh=picture.size, count=json.loads(truth)["count"])
        rows.append((number, task, prompt, target.to_json()))
    return rows


def one_class(rows: list[Canon]) -> list[Canon]:
    """Of each image and task the rows of one label: the first of the image's."""
    return list({(row[0], row[1]): row for row in reversed(rows)}.values())


def absent(picture: Picture) -> str:
    """A label that is not there."""
    return next(name for name in NAMES if name not in picture.labels)


def pointing_with_negatives(pictures: Sequence[Picture]) -> list[Canon]:
    """All labels that are there, and one that is not."""
    rows = pointing(pictures, allow_none=True)
    instruct = ANSWER_FORMATS["qwen-points"].instruct
    assert instruct is not None
    for picture in pictures:
        label = absent(picture)
        question = "<image>" + instruct("pointing", [label], allow_none=True)
        target = Target(task="pointing", size_wh=picture.size, categories=[label])
        rows.append((str(picture.number), "pointing", question, target.to_json()))
    return rows


def crowds(pictures: Sequence[Picture]) -> list[Canon]:
    """All objects of an image as one crowd."""
    rows = []
    for picture in pictures:
        points = sorted(thing.centre for thing in picture.things)
        things = {"points_xy": points, "labels": ["person"] * len(points), "count": len(points)}
        target = Target(task="counting", size_wh=picture.size, categories=["person"], **things)
        question = "<image>Count every person in the image and answer with the number alone."
        rows.append((str(picture.number), "counting", question, target.to_json()))
    return rows


def encoded(picture: Picture, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.image().save(buffer, kind, **options)
    return buffer.getvalue()


png = partial(encoded, kind="PNG")
jpeg = partial(encoded, kind="JPEG", quality=95)


def fetched(picture: Picture, folder: Path, *, by_url: bool) -> dict[str, Any]:
    """Store an image as a fetching script does; the columns that say which it is."""
    url, data = f"https://example.org/photos/{picture.number}.png?w=640", png(picture)
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(url.encode()).hexdigest() if by_url else f"{digest}.jpg"
    (folder / name).write_bytes(data)
    return {"image_url": url, "image_sha256": digest}


def write_pixmo_count(pictures: Sequence[Picture], folder: Path) -> tuple[list[Path], Path]:
    """PixMo-Count: points in pixels as a struct of lists; a dead URL."""
    records = []
    for picture in pictures:
        image = fetched(picture, folder / "pixmo_images", by_url=picture.number % 2 == 0)
        for label in picture.labels:
            points = [thing.centre for thing in picture.of(label)]
            as_lists = {"x": [x for x, _ in points], "y": [y for _, y in points]}
            records.append({**image, "count": len(points), "points": as_lists, "label": label})
    dead = {"image_url": "https://example.org/gone.png", "image_sha256": "0" * 64, "count": 2, "label": "ghosts"}
    records.append({**dead, "points": {"x": [1.0, 2.0], "y": [1.0, 2.0]}})
    points_type = pa.struct([("x", pa.list_(pa.float64())), ("y", pa.list_(pa.float64()))])
    texts = [(name, pa.string()) for name in ("image_url", "image_sha256")]
    schema = pa.schema([*texts, ("count", pa.int32()), ("points", points_type), ("label", pa.string())])
    path = folder / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(records, schema), path)
    return [path], folder / "pixmo_images"


def write_pixmo_points(pictures: Sequence[Picture], folder: Path, *, percent: bool = True) -> tuple[Any, ...]:
    """PixMo-Points: points as a list of structs, in percent with some counts of 0, or in pixels; two shards."""
    records: list[dict[str, Any]] = []
    for picture in pictures:
        image = fetched(picture, folder / "cache" / "a", by_url=True)
        sx, sy = (100 / picture.size[0], 100 / picture.size[1]) if percent else (1, 1)
        for label in [*picture.labels, *([absent(picture)] if percent else [])]:
            points = [{"x": thing.centre[0] * sx, "y": thing.centre[1] * sy} for thing in picture.of(label)]
            rest = {"count": len(points), "label": label, "collection_method": "pointing"}
            records.append({**image, "points": points, **rest})
    point = pa.struct([("x", pa.float64()), ("y", pa.float64())])
    texts = [(name, pa.string()) for name in ("image_url", "image_sha256", "label", "collection_method")]
    schema = pa.schema([*texts, ("points", pa.list_(point)), ("count", pa.int64())])
    paths = [folder / f"train-0000{i}-of-00002.parquet" for i in (0, 1)]
    for i, path in enumerate(paths):
        half = records[: len(records) // 2] if i == 0 else records[len(records) // 2 :]
        pq.write_table(pa.Table.from_pylist(half, schema), path)
    return paths, folder / "cache"


def write_tallyqa(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """TallyQA's train.json: no issimple, prefixed image ids, a question twice, one with two answers."""
    folders = ("VG_100K", "VG_100K_2", "train2014", "val2014")
    records: list[dict[str, Any]] = []
    for i, picture in enumerate(pictures):
        part = folders[i % 4]
        name = f"COCO_{part}_{picture.number:012d}.jpg" if i % 4 > 1 else f"{picture.number}.jpg"
        path = folder / "images" / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture))
        image = {"data_source": "imported_vqa", "image": f"{part}/{name}", "image_id": int(f"9{picture.number}")}
        answers = [(asked(label), len(picture.of(label))) for label in picture.labels]
        answers += [(asked(picture.labels[0]).lower(), len(picture.of(picture.labels[0])))]  # once more, and alike
        answers += [("How many shapes?", 3), ("how many shapes", 4)]  # nobody knows
        for question, answer in answers:
            records.append({"answer": answer, **image, "question": question, "question_id": 30_000_000 + len(records)})
    path = folder / "train.json"
    records.sort(key=lambda record: len(record["question"]), reverse=True)  # questions of an image lie apart
    path.write_text(json.dumps(records))
    return path, folder / "images"


def write_clevr(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """CLEVR's scenes; images are RGBA."""
    scenes = []
    for picture in pictures:
        name = f"CLEVR_train_{picture.number:06d}.png"
        path = folder / "images" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.image().convert("RGBA").save(path)
        objects = [
            {
                "shape": thing.label.split()[1],
                "size": "large",
                "material": "rubber",
                "3d_coords": [-0.7, 2.1, 0.35],
                "rotation": 269.8,
                "pixel_coords": [*thing.centre, 12.66],
                "color": thing.label.split()[0],
            }
            for thing in picture.things
        ]
        scene = {"split": "train", "image_index": picture.number, "image_filename": name, "objects": objects}
        scenes.append({**scene, "relationships": {"left": [[]]}, "directions": {"left": [-0.7, -0.7, 0]}})
    path = folder / "scenes" / "CLEVR_train_scenes.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"info": {"date": "2/14/2017", "split": "train"}, "scenes": scenes}))
    return [path], folder / "images" / "train"


def write_r1v(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """R1-V's CLEVR-70k: the image's bytes, a problem, a tagged solution."""
    records = [
        {
            "image": {"bytes": png(picture), "path": f"CLEVR_trainA_{picture.number:06d}.png"},
            "problem": asked(label),
            "solution": f"<answer> {len(picture.of(label))} </answer>",
        }
        for picture in pictures
        for label in picture.labels
    ]
    folder.mkdir(parents=True)
    path = folder / "train-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(records), path)
    return [path], folder


def write_superclevr(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """R1-V's SuperCLEVR: a line for each question."""
    lines = []
    for picture in pictures:
        name = f"superCLEVR_new_{picture.number:06d}.png"
        picture.save(folder / "images", name)
        for label in picture.labels:
            record = {
                "image_path": f"./images/{name}",
                "question": asked(label),
                "ground_truth": len(picture.of(label)),
            }
            lines.append(json.dumps(record) + "\n")
    path = folder / "superclevr_test200_counting_problems.jsonl"
    path.write_text("".join(lines))
    return [path], folder / "images"


def countbench_records(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """CountBenchQA's rows, some without an image."""
    records: list[dict[str, Any]] = []
    for picture in pictures:
        for label in picture.labels:
            image = {"bytes": png(picture), "path": None}
            words = {"text": f"A photo of {label}", "question": asked(label), "number": len(picture.of(label))}
            records.append({"image": image, **words})
    lost = {"image": None, "text": "Six sheep", "question": "How many sheep are there?", "number": 6}
    return [*records[:1], lost, *records[1:], lost]


def write_countbenchqa(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    folder.mkdir(parents=True)
    path = folder / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(countbench_records(pictures)), path)
    return ([path],)


def write_fsc147(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """FSC-147: the images were halved from H x W; three exemplar boxes; one class an image, with underscores."""
    entries: dict[str, Any] = {}
    names = []
    for picture in pictures:
        name, label = f"{picture.number}.jpg", picture.labels[0]
        picture.save(folder / "images_384_VarV2", name, format="PNG")
        x1, y1, x2, y2 = picture.of(label)[0].box
        width, height = picture.size
        entries[name] = {
            "H": 2 * height,
            "W": 2 * width,
            "box_examples_coordinates": [[[x1, y1], [x1, y2], [x2, y2], [x2, y1]]] * 3,
            "box_examples_path": ["/nfs/boxes/1.jpg"] * 3,
            "density_path": f"/nfs/gt_density_map_adaptive_384_VarV2/{picture.number}.npy",
            "img_path": f"/nfs/images/{name}",
            "points": [list(thing.centre) for thing in picture.of(label)],
            "r": [3, 3],
            "ratio_h": 0.5,
            "ratio_w": 0.5,
        }
        names.append((name, label.replace(" ", "_")))
    paths = [folder / name for name in ("annotation_FSC147_384.json", "Train_Test_Val_FSC_147.json")]
    paths[0].write_text(json.dumps(entries))
    files = [name for name, _ in names]
    paths[1].write_text(json.dumps({"test": [], "test_coco": [], "train": files, "val": [], "val_coco": []}))
    classes = folder / "ImageClasses_FSC147.txt"
    classes.write_text("".join(f"{name}\t{label}\n" for name, label in names))
    return *paths, classes, folder / "images_384_VarV2"


def save_heads(path: Path, points: Sequence[Sequence[float]], **options: Any) -> None:
    """An annotation file as ShanghaiTech's are: a struct in a cell."""
    inner = np.empty((1, 1), dtype=[("location", object), ("number", object)])
    location = np.array(points, dtype=float).reshape(-1, 2)
    inner[0, 0] = (location, np.array([[len(location)]], dtype=np.uint16))
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = inner
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"image_info": cell}, **options)


def write_shanghaitech(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """ShanghaiTech: both parts, each with its own name of the folder of annotations."""
    parts = (("part_A_final", "ground_truth"), ("part_B", "ground-truth"))
    for i, picture in enumerate(pictures):
        part, truth = parts[i % 2]
        data, name = folder / part / "train_data", f"IMG_{i // 2 + 1}"
        (data / "images").mkdir(parents=True, exist_ok=True)
        (data / "images" / f"{name}.jpg").write_bytes(jpeg(picture))
        heads = [(x + 1, y + 1) for x, y in (thing.centre for thing in picture.things)]
        save_heads(data / truth / f"GT_{name}.mat", heads)
    return ([folder / part for part, _ in parts],)


FORMATS = (
    SceneFormat(
        "pixmo-count",
        write_pixmo_count,
        pixmo.convert,
        pixmo.Options(),
        lambda pictures: with_questions(counting(pictures, boxes=False, points=True)),
    ),
    SceneFormat(
        "pixmo-points in percent",
        write_pixmo_points,
        pixmo.convert,
        pixmo.Options(task="pointing", point_unit="percent"),
        pointing_with_negatives,
    ),
    SceneFormat(
        "pixmo-points in pixels",
        partial(write_pixmo_points, percent=False),
        pixmo.convert,
        pixmo.Options(task="both"),
        lambda pictures: with_questions(counting(pictures, boxes=False, points=True)) + pointing(pictures),
    ),
    SceneFormat("tallyqa", write_tallyqa, tallyqa.convert, tallyqa.Options(), questions_alone),
    SceneFormat(
        "clevr",
        write_clevr,
        clevr.convert,
        clevr.Options(task="both", attributes=["color shape"]),
        lambda pictures: counting(pictures, boxes=False, points=True) + pointing(pictures),
    ),
    SceneFormat("clevr-70k", write_r1v, clevr.convert, clevr.Options(), questions_alone, embeds=True),
    SceneFormat("superclevr", write_superclevr, clevr.convert, clevr.Options(), questions_alone),
    SceneFormat(
        "fsc147",
        write_fsc147,
        fsc147.convert,
        fsc147.Options(task="both"),
        lambda pictures: one_class(with_questions(counting(pictures, boxes=False, points=True)) + pointing(pictures)),
    ),
    SceneFormat("shanghaitech", write_shanghaitech, shanghaitech.convert, shanghaitech.Options(), crowds),
    SceneFormat(
        "countbenchqa", write_countbenchqa, countbench.convert, countbench.Options(), questions_alone, embeds=True
    ),
)
