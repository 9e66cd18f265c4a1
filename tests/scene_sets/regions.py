"""Phrases for regions: Visual Genome, Flickr30k Entities; and elements of screens: ScreenSpot and its relatives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scene_sets.base import Canon, Picture, SceneFormat, Thing, grounding
from verl_visionr1.answers import FORMATS as ANSWER_FORMATS
from verl_visionr1.conversion.datasets import flickr30k, screenspot, visual_genome
from verl_visionr1.conversion.writing import Report
from verl_visionr1.targets import Target


def folder_of(picture: Picture) -> str:
    """Which of the two archives an image lies in."""
    return "VG_100K" if picture.number % 2 else "VG_100K_2"


def write_visual_genome(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """region_descriptions.json, image_data.json beside it, and the images in two folders."""
    regions, data = [], []
    for picture in pictures:
        # lossless, under the name that the data set gives
        picture.save(folder / "images" / folder_of(picture), f"{picture.number}.jpg", format="PNG")
        found = []
        for number, thing in enumerate(picture.things):
            x, y, width, height = thing.xywh
            where = {"x": x, "y": y, "width": width, "height": height}
            phrase = thing.label.replace(" ", "  ") + "." * (number == 1)
            ids = {"region_id": picture.number * 100 + number, "image_id": picture.number}
            found.append({**ids, **where, "phrase": phrase, "synsets": []})
        regions.append({"regions": found, "id": picture.number})
        url = f"https://cs.stanford.edu/people/rak248/{folder_of(picture)}/{picture.number}.jpg"
        size = {"width": picture.size[0], "height": picture.size[1]}
        data.append({**size, "url": url, "image_id": picture.number, "coco_id": None, "flickr_id": 1})
    (folder / "image_data.json").write_text(json.dumps(data))
    (folder / "region_descriptions.json").write_text(json.dumps(regions))
    return folder / "region_descriptions.json", folder / "images"


def convert_visual_genome(regions: Path, images_dir: Path, out: Path, options: visual_genome.Options) -> Report:
    """With image_data.json, whose path is known only here."""
    image_data = regions.parent / "image_data.json"
    return visual_genome.convert(regions, images_dir, out, replace(options, image_data=image_data))


def flickr_xml(picture: Picture, chains: dict[str, int]) -> str:
    """The xml of one image: chains of a scene and without a box among those of things."""
    objects = [
        "<object><name>900</name><scene>1</scene><nobndbox>1</nobndbox></object>",
        "<object><name>901</name><scene>0</scene><nobndbox>1</nobndbox></object>",
    ]
    for number, thing in enumerate(picture.things):
        x1, y1, x2, y2 = thing.box
        # one chain of its own beside that of the label: a group that the thing is in
        names = f"<name>{chains[thing.label]}</name><name>{800 + number}</name>"
        corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        objects.append(f"<object>{names}<bndbox>{corners}</bndbox></object>")
    width, height = picture.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{picture.number}.jpg</filename>{size}{''.join(objects)}</annotation>"


def write_flickr30k(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """The entities' folder, and the images; a caption repeats what another said."""
    entities, images = folder / "entities", folder / "flickr30k-images"
    for name in ("Annotations", "Sentences"):
        (entities / name).mkdir(parents=True)
    for picture in pictures:
        picture.save(images, f"{picture.number}.jpg", format="PNG")
        chains = {label: number for number, label in enumerate(picture.labels, 1)}
        named = " and ".join(f"[/EN#{chain}/other {label}]" for label, chain in chains.items())
        label, chain = next(iter(chains.items()))
        sentences = [
            f"Someone drew {named} .",
            f"[/EN#0/notvisual It] shows [/EN#{chain}/clothing/other {label}] on [/EN#900/scene a sheet] .",
            "[/EN#901/people An artist] is not to be seen .",
            f"[/EN#{chain}/other {label.capitalize()}] .",
            "Nothing here .",
        ]
        (entities / "Sentences" / f"{picture.number}.txt").write_text("\n".join(sentences) + "\n")
        (entities / "Annotations" / f"{picture.number}.xml").write_text(flickr_xml(picture, chains))
    (entities / "train.txt").write_text("".join(f"{picture.number}\n" for picture in pictures))
    (entities / "UNRELATED_CAPTIONS").write_text("# format: <imageID> <sentence number>\n129602216 5")
    return entities, images


def elements(pictures: Sequence[Picture]) -> Iterator[tuple[Picture, Thing]]:
    """What an instruction can mean alone: the things whose label is there once."""
    for picture in pictures:
        for label in picture.labels:
            if len(picture.of(label)) == 1:
                yield picture, picture.of(label)[0]


def clicks(pictures: Sequence[Picture]) -> list[Canon]:
    """One row for each element: a click inside its box."""
    return [_asked(picture, thing, "pointing", "Click on", "point") for picture, thing in elements(pictures)]


def located(pictures: Sequence[Picture]) -> list[Canon]:
    """One row for each element: its box."""
    return [_asked(picture, thing, "grounding", "Locate", "qwen-json") for picture, thing in elements(pictures)]


def _asked(picture: Picture, thing: Thing, task: str, verb: str, answer_format: str) -> Canon:
    label = thing.label
    target = Target(task=task, size_wh=picture.size, boxes_xyxy=[thing.box], labels=[label], categories=[label])
    question = f'<image>{verb} the element: "{label}". {ANSWER_FORMATS[answer_format].then}'
    return str(picture.number), task, question, target.to_json()


def fractions(picture: Picture, thing: Thing) -> list[float]:
    """x1, y1, x2, y2 as fractions of the image."""
    return [value / side for value, side in zip(thing.box, picture.size * 2, strict=True)]


def write_screenspot(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """ScreenSpot v1 and v2: xywh in pixels, in two files."""
    files = [folder / "screenspot_mobile.json", folder / "screenspot_web.json"]
    entries: list[list[dict[str, Any]]] = [[], []]
    for picture in pictures:
        picture.save(folder / "imgs")
    for number, (picture, thing) in enumerate(elements(pictures)):
        kinds = {"data_type": "icon" if number % 3 else "text", "data_source": "ios"}
        entry = {"img_filename": picture.file_name, "bbox": thing.xywh, "instruction": thing.label, **kinds}
        entries[number % 2].append(entry)
    for path, listed in zip(files, entries, strict=True):
        path.write_text(json.dumps(listed))
    return files, folder / "imgs"


def write_screenspot_pro(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """ScreenSpot-Pro: xyxy in pixels, with the screenshot's size; images in folders of applications."""
    entries = []
    for picture in pictures:
        picture.save(folder / "images" / "vscode_macos")
    for number, (picture, thing) in enumerate(elements(pictures)):
        name = f"vscode_macos/{picture.file_name}"
        entry = {"img_filename": name, "bbox": list(thing.box), "img_size": list(picture.size)}
        asked = {"instruction": thing.label, "instruction_cn": "点击", "id": f"vscode_macos_{number}"}
        entries.append({**entry, **asked, "application": "vscode", "platform": "macos", "ui_type": "text"})
    path = folder / "vscode_macos.json"
    path.write_text(json.dumps(entries))
    return [path], folder / "images"


def write_seeclick(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """SeeClick: fractions; widgets one an entry, web pages with a list of elements."""
    widgets, pages = folder / "widget_captioning.json", folder / "seeclick_web.json"
    entries: list[dict[str, Any]] = []
    listed: dict[str, list[dict[str, Any]]] = {}
    for picture in pictures:
        picture.save(folder / "imgs")
    for number, (picture, thing) in enumerate(elements(pictures)):
        element = {"instruction": thing.label, "bbox": fractions(picture, thing)}
        if number % 2:
            entries.append({"img_filename": picture.file_name, **element})
        else:
            listed.setdefault(picture.file_name, []).append({**element, "data_type": "hover"})
    widgets.write_text(json.dumps(entries))
    web = [{"img_filename": name, "url": "https://a.b", "elements": found} for name, found in listed.items()]
    pages.write_text(json.dumps(web))
    return [widgets, pages], folder / "imgs"


def write_screenspot_hf(pictures: Sequence[Picture], folder: Path) -> tuple[Any, ...]:
    """The parquet on Hugging Face: fractions, and the bytes of the images."""
    rows = []
    for picture, thing in elements(pictures):
        image = {"bytes": picture.save(folder).read_bytes(), "path": picture.file_name}
        row = {"file_name": picture.file_name, "bbox": fractions(picture, thing), "instruction": thing.label}
        rows.append({**row, "data_type": "text", "data_source": "windows", "image": image})
    path = folder / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return ([path],)


def convert_screenspot(files: list[Path], images_dir: Path, out: Path, options: screenspot.Options) -> Report:
    """With the folder of images, whose path is known only here."""
    return screenspot.convert(files, out, replace(options, images_dir=images_dir))


CLICK, BOX = screenspot.Options(), screenspot.Options(task="grounding")
FORMATS = (
    SceneFormat(
        "visual genome",
        write_visual_genome,
        convert_visual_genome,
        visual_genome.Options(),
        lambda pictures: grounding(pictures, single=True),
    ),
    SceneFormat(
        "visual genome merged",
        write_visual_genome,
        convert_visual_genome,
        visual_genome.Options(repeats="merge"),
        grounding,
    ),
    SceneFormat(
        "visual genome without image_data",
        write_visual_genome,
        visual_genome.convert,
        visual_genome.Options(repeats="merge"),
        grounding,
    ),
    SceneFormat("flickr30k", write_flickr30k, flickr30k.convert, flickr30k.Options(), grounding),
    SceneFormat(
        "flickr30k single",
        write_flickr30k,
        flickr30k.convert,
        flickr30k.Options(boxes="single"),
        lambda pictures: grounding(pictures, single=True),
    ),
    SceneFormat("screenspot", write_screenspot, convert_screenspot, CLICK, clicks),
    SceneFormat("screenspot boxes", write_screenspot, convert_screenspot, BOX, located),
    SceneFormat("screenspot pro", write_screenspot_pro, convert_screenspot, CLICK, clicks),
    SceneFormat("seeclick", write_seeclick, convert_screenspot, CLICK, clicks),
    SceneFormat("screenspot hf", write_screenspot_hf, screenspot.convert, CLICK, clicks, embeds=True),
)
