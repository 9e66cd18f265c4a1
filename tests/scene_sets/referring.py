"""Referring expressions: RefCOCO in its three distributions, gRefCOCO, ReasonSeg."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scene_sets.base import NAMES, Canon, Picture, SceneFormat, Thing, grounding
from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.conversion.datasets import reasonseg, refcoco
from verl_visionr1.targets import Target


def _canon(picture: Picture, text: str, things: Sequence[Thing], allow_none: bool) -> Canon:
    target = Target(
        task="grounding",
        size_wh=picture.size,
        boxes_xyxy=[thing.box for thing in things],
        labels=[text] * len(things),
        categories=[text],
    )
    instruct = ANSWER_FORMATS["qwen-json"].instruct
    assert instruct is not None
    question = instruct("grounding", [text], allow_none=allow_none)
    return str(picture.number), "grounding", f"<image>{question}", target.to_json()


def expressions(pictures: Sequence[Picture]) -> list[Canon]:
    """Two rows for each label that is there once: it is called by two names."""
    alone = [(picture, picture.of(label)) for picture in pictures for label in picture.labels]
    return [
        _canon(picture, name, things, False)
        for picture, things in alone
        if len(things) == 1
        for name in names_of(things[0].label)
    ]


def expressions_and_none(pictures: Sequence[Picture]) -> list[Canon]:
    """A row for each label that is there, with all its objects, and one for a label that is not."""
    rows = []
    for picture in pictures:
        rows += [_canon(picture, label, picture.of(label), True) for label in picture.labels]
        rows.append(_canon(picture, absent_of(picture), (), True))
    return rows


def questions(pictures: Sequence[Picture]) -> list[Canon]:
    """As `grounding`, but the phrase is a question of its own, and the prompt says what to do with it."""
    then = ANSWER_FORMATS["qwen-json"].then
    rows = []
    for picture in pictures:
        for label in picture.labels:
            boxes = [thing.box for thing in picture.of(label)]
            target = Target(task="grounding", size_wh=picture.size, boxes_xyxy=boxes, labels=[f"{label}?"] * len(boxes))
            rows.append((str(picture.number), "grounding", f"<image>{label}? {then}", target.to_json()))
    return rows


def names_of(label: str) -> tuple[str, str]:
    """What people call a thing."""
    return label, f"{label} over there"


def absent_of(picture: Picture) -> str:
    """The first label that is not there."""
    return next(name for name in NAMES if name not in picture.labels)


def ref(number: int, picture: Picture, ann_id: Any, texts: Sequence[str], **more: Any) -> dict[str, Any]:
    """One ref, as the files have it; its `file_name` is not that of the image."""
    sentences = [
        {"tokens": text.split(), "raw": text.upper(), "sent_id": number * 10 + i, "sent": text}
        for i, text in enumerate(texts)
    ]
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "file_name": f"{coco_name(picture)[:-4]}_{number}.jpg",
        "ann_id": ann_id,
        "ref_id": number,
        "image_id": picture.number,
        "split": "train",
        "sentences": sentences,
        "category_id": [1] if isinstance(ann_id, list) else 1,
        **more,
    }


def coco_name(picture: Picture) -> str:
    """The name that COCO's train2014 gives an image."""
    return f"COCO_train2014_{picture.number:012d}.jpg"


def instances(pictures: Sequence[Picture]) -> dict[str, Any]:
    """instances.json: all objects, with the segmentations that nobody reads."""
    images, annotations = [], []
    for picture in pictures:
        width, height = picture.size
        images.append({"id": picture.number, "file_name": coco_name(picture), "width": width, "height": height})
        for i, thing in enumerate(picture.things):
            x, y, w, h = thing.xywh
            segmentation = [[x, y, x + w, y, x + w, y + h]] if i else {"counts": [0, 9], "size": [3, 3]}
            entry = {"id": picture.number * 100 + i, "image_id": picture.number, "bbox": thing.xywh, "iscrowd": 0}
            annotations.append({**entry, "segmentation": segmentation, "category_id": 1, "area": w * h})
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": []}


def ann_id_of(picture: Picture, thing: Thing) -> int:
    return picture.number * 100 + picture.things.index(thing)


def save_train2014(pictures: Sequence[Picture], folder: Path) -> Path:
    """The images, lossless, under COCO's names."""
    for picture in pictures:
        picture.save(folder / "train2014", coco_name(picture), format="PNG")
    return folder / "train2014"


def single_refs(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """A ref for each label that is there once; those of one image do not follow each other."""
    refs: list[dict[str, Any]] = []
    for label in NAMES:
        for picture in pictures:
            if len(things := picture.of(label)) == 1:
                refs.append(ref(len(refs), picture, ann_id_of(picture, things[0]), names_of(label)))
    return refs


def python2_pickle(value: Any) -> bytes:
    """A pickle as Python 2 wrote it: texts are bytes."""

    def parts(value: Any) -> Iterator[bytes]:
        if isinstance(value, dict):
            yield b"}("
            for key, item in value.items():
                yield from parts(key)
                yield from parts(item)
            yield b"u"
        elif isinstance(value, list):
            yield b"]("
            for item in value:
                yield from parts(item)
            yield b"e"
        elif isinstance(value, str):
            data = value.encode("latin1")
            yield b"T" + struct.pack("<I", len(data)) + data
        else:
            assert isinstance(value, int)
            yield b"J" + struct.pack("<i", value)

    return b"\x80\x02" + b"".join(parts(value)) + b"."


def write_refs(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """refs(unc).p, instances.json and train2014."""
    images = save_train2014(pictures, folder)
    (folder / "refs(unc).p").write_bytes(python2_pickle(single_refs(pictures)))
    (folder / "instances.json").write_text(json.dumps(instances(pictures)))
    return ([folder / "refs(unc).p", folder / "instances.json", images],)


def write_grefs(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """grefs(unc).json: lists of annotations, one of them repeated, and -1 for none."""
    images = save_train2014(pictures, folder)
    refs: list[dict[str, Any]] = []
    for picture in pictures:
        for label in picture.labels:
            ids = [ann_id_of(picture, thing) for thing in picture.of(label)]
            refs.append(ref(len(refs), picture, ids + ids[:1], [label], no_target=False))
        refs.append(ref(len(refs), picture, [-1], [absent_of(picture)], no_target=True))
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(instances(pictures)))
    return ([images, folder / "instances.json", folder / "grefs(unc).json"],)


def write_jxu124(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """jxu124/refcoco: a ref a row, its annotation and image as JSON texts, images by path."""
    save_train2014(pictures, folder / "coco")
    document = instances(pictures)
    annotations = {entry["id"]: entry for entry in document["annotations"]}
    images = {entry["id"]: entry for entry in document["images"]}
    rows = []
    for made in single_refs(pictures):
        annotation, image = annotations[made["ann_id"]], images[made["image_id"]]
        x, y, w, h = annotation["bbox"]
        columns = {
            "raw_anns": json.dumps(annotation),
            "raw_image_info": json.dumps(image),
            "raw_sentences": json.dumps(made["sentences"]),
            "image_path": f"coco/train2014/{image['file_name']}",
            "bbox": [float(x), float(y), float(x + w), float(y + h)],
            "captions": [sentence["sent"] for sentence in made["sentences"]],
            "global_image_id": f"coco.{image['id']}",
        }
        rows.append({**made, **columns})
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return ([folder / "train-00000-of-00001.parquet", folder / "coco"],)


def write_lmms_lab(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """lmms-lab/RefCOCO: box x y width height in float32, all expressions of it, the image's bytes."""
    folder.mkdir(parents=True)
    objects = {ann_id_of(picture, thing): (picture, thing) for picture in pictures for thing in picture.things}
    rows = []
    for made in single_refs(pictures):
        picture, thing = objects[made["ann_id"]]
        buffer = io.BytesIO()
        picture.image().save(buffer, "PNG")
        x, y, w, h = thing.xywh
        rows.append(
            {
                "question_id": str(made["ann_id"]),
                "image": {"bytes": buffer.getvalue(), "path": None},
                "question": "Please carefully observe the area circled in the image and come up with a caption.",
                "answer": [sentence["sent"] for sentence in made["sentences"]],
                "segmentation": [float(x), float(y), float(x + w), float(y)],
                "bbox": [float(x), float(y), float(w), float(h)],
                "iscrowd": 0,
                "file_name": made["file_name"],
            }
        )
    table = pa.Table.from_pylist(rows)
    place = table.schema.get_field_index("bbox")
    table = table.set_column(place, "bbox", table["bbox"].cast(pa.list_(pa.float32())))
    pq.write_table(table, folder / "val-00000-of-00001.parquet")
    return ([folder / "val-00000-of-00001.parquet"],)


def outline(thing: Thing) -> list[list[int]]:
    """A polygon whose bounds are the box."""
    x1, y1, x2, y2 = thing.box
    return [[x1, y1], [x2, y1], [x2, y2], [(x1 + x2) // 2, y2], [x1, y2]]


def reason(things: Sequence[Thing], text: str, *, is_sentence: bool) -> dict[str, Any]:
    """One json of ReasonSeg."""
    shapes = [{"label": "target", "points": outline(it), "shape_type": "polygon", "image_name": "x"} for it in things]
    flag = {"label": "flag", "points": [[0, 0]], "shape_type": "polygon"}
    return {"text": [text], "is_sentence": is_sentence, "shapes": [*shapes, flag]}


def write_reasonseg(asks: Callable[[str], str], *, is_sentence: bool, single: bool = False) -> Any:
    """`write` of a `SceneFormat`: ReasonSeg/train, with an image for each label that is there."""

    def write(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
        for picture in pictures:
            for number, label in enumerate(picture.labels):
                things = picture.of(label)
                if len(things) == 1 or not single:
                    path = picture.save(
                        folder / "ReasonSeg" / "train", f"{picture.number}_{number}_o.jpg", format="PNG"
                    )
                    text = json.dumps(reason(things, asks(label), is_sentence=is_sentence))
                    path.with_suffix(".json").write_text(text)
        return (folder / "ReasonSeg",)

    return write


def _single(pictures: Sequence[Picture]) -> list[Canon]:
    return grounding(pictures, single=True)


_REASON, _EACH = reasonseg.Options, "polygon"
FORMATS = (
    SceneFormat("refcoco", write_refs, refcoco.convert, refcoco.Options(), expressions),
    SceneFormat("refcoco jxu124", write_jxu124, refcoco.convert, refcoco.Options(), expressions),
    SceneFormat("refcoco lmms-lab", write_lmms_lab, refcoco.convert, refcoco.Options(split="val"), expressions, True),
    SceneFormat("grefcoco", write_grefs, refcoco.convert, refcoco.Options(), expressions_and_none),
    SceneFormat("grefcoco without negatives", write_grefs, refcoco.convert, refcoco.Options(negatives=0.0), grounding),
    SceneFormat(
        "reasonseg", write_reasonseg(str, is_sentence=False, single=True), reasonseg.convert, _REASON(), _single
    ),
    SceneFormat(
        "reasonseg polygons",
        write_reasonseg(str, is_sentence=False),
        reasonseg.convert,
        _REASON(boxes=_EACH),
        grounding,
    ),
    SceneFormat(
        "reasonseg questions",
        write_reasonseg("{}?".format, is_sentence=True),
        reasonseg.convert,
        _REASON(boxes=_EACH),
        questions,
    ),
)
