"""Flickr30k Entities -> parquet rows for verl: grounding of the phrases of captions.

    visionr1 convert flickr30k flickr30k_entities flickr30k-images flickr_train.parquet

Needs the annotation repository with annotations.zip unpacked: `Annotations/<id>.xml`, `Sentences/<id>.txt`,
`train.txt`, `val.txt`, `test.txt`, `UNRELATED_CAPTIONS`; and a folder of `<id>.jpg` (available by request form).
`--split` selects the list of images.

A caption marks its phrases: `[/EN#1/people A man] with [/EN#2/bodyparts pierced ears]`. The number is a coreference
chain with boxes in the xml. They are 1-based with both corners inside, so that only xmin and ymin are reduced by 1. A
chain has any number of boxes; see `--boxes`. Left out and counted are phrases of chain 0 (not visual), of a whole
scene, without a box, or of several chains in one image ("a man" and "a man"). Equal phrases of several captions are one
row. Captions listed in UNRELATED_CAPTIONS are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from xml.etree.ElementTree import Element

from verl_visionr1.conversion.conventions import Convention
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import BoxFlags, DataSource
from verl_visionr1.conversion.image_files import find_image, inside, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.sources import numbered_lines, read_lines, read_xml
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.targets import normalize_label

_PHRASE = re.compile(r"\[/EN#(\d+)/\S+ ([^\[\]]+)\]")
_NOT_VISUAL = "0"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class Options(BoxFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/flickr30k"
    boxes: Annotated[
        Literal["many", "union", "single"],
        "A phrase with several boxes: many asks for all, union for the box around them, single drops it.",
    ] = "many"


@dataclass(slots=True)
class _Chains:
    """The xml of an image: size of its frame, and the boxes of each chain, or why it has none."""

    size_wh: tuple[int, int]
    boxes: dict[str, list[list[float]]] = field(default_factory=dict)
    scenes: set[str] = field(default_factory=set)
    without_box: set[str] = field(default_factory=set)


class _Phrase(NamedTuple):
    text: str
    chain: str
    caption: int  # counted from 1, as UNRELATED_CAPTIONS does


def _image_ids(entities: Path, split: str) -> list[str]:
    path = entities / f"{inside(split, '--split')}.txt"
    if not path.exists():
        found = ", ".join(sorted(it.stem for it in entities.glob("*.txt"))) or "no list"
        raise RowsError(f"{path}: no such list of images; --split must name one of the folder's: {found}")
    return [inside(line.strip(), str(path)) for line in read_lines(path)]


def _files_of(entities: Path, image_id: str) -> tuple[Path, Path]:
    """Return the files of an image's captions and boxes."""
    return entities / "Sentences" / f"{image_id}.txt", entities / "Annotations" / f"{image_id}.xml"


Unrelated = frozenset[tuple[str, int]]
"""(Image id, caption from 1) of captions that do not fit their image."""


def _read_unrelated(entities: Path) -> Unrelated:
    """Read UNRELATED_CAPTIONS; its lines are `129602216 5`."""
    path = entities / "UNRELATED_CAPTIONS"
    if not path.exists():
        return frozenset()
    listed: set[tuple[str, int]] = set()
    for line in read_lines(path):
        match line.split("#")[0].split():
            case []:
                continue
            case [image_id, number] if number.isdigit():
                listed.add((image_id, int(number)))
            case _:
                raise RowsError(f"{path}: {line.strip()!r}: needs an image id and the number of a caption; correct it")
    return frozenset(listed)


def _read_captions(path: Path) -> list[_Phrase]:
    phrases: list[_Phrase] = []
    for number, line in numbered_lines(path):
        found = [_Phrase(" ".join(text.split()), chain, number) for chain, text in _PHRASE.findall(line)]
        if len(found) != line.count("[") or len(found) != line.count("]"):
            reason = f"caption {number}: {line.strip()[:100]!r}: a phrase is not of the form [/EN#1/people A man]"
            raise RowError("malformed caption", f"{path.name}: {reason}; correct it")
        phrases += found
    return phrases


def _read_boxes(path: Path, written: Convention) -> _Chains:
    root = read_xml(path)
    chains = _Chains((_whole(root, "size/width", path), _whole(root, "size/height", path)))
    for thing in root.findall("object"):
        names = [name.text.strip() for name in thing.findall("name") if name.text]
        box = thing.find("bndbox")
        if not names:
            raise RowError("object without name", f"{path.name}: an object has no <name>; correct it")
        if box is not None:
            numbers = [_whole(box, corner, path) for corner in _CORNERS]
            shift = 0 if written.fixed_wh else 1
            corners = written.as_corners([numbers[0] - shift, numbers[1] - shift, *numbers[2:]])
            for name in names:
                chains.boxes.setdefault(name, []).append(corners)
        elif thing.findtext("scene", "0").strip() == "1":
            chains.scenes.update(names)
        else:
            chains.without_box.update(names)
    return chains


def _whole(parent: Element, tag: str, path: Path) -> int:
    text = parent.findtext(tag)
    try:
        return int(text or "")
    except ValueError:
        raise RowError("malformed XML", f"{path.name}: <{tag}> is {text!r}: needs a whole number; correct it") from None


def _items(
    image_id: str, entities: Path, unrelated: Unrelated, images_dir: Path, options: Options, ledger: Ledger
) -> Iterator[Item]:
    (captions, boxes), written = _files_of(entities, image_id), options.convention("xyxy-abs")
    try:
        phrases, chains = _read_captions(captions), _read_boxes(boxes, written)
    except RowsError as error:  # affects one file among thousands
        raise RowError(getattr(error, "kind", "annotation file unreadable"), str(error)) from None
    related = [it for it in phrases if (image_id, it.caption) not in unrelated]
    ledger.left_out["phrase of a caption that UNRELATED_CAPTIONS lists"] += len(phrases) - len(related)
    for same in _group_by_words(related, chains, ledger):
        found = _select_boxes(chains.boxes[same[0].chain], options.boxes)
        if found is None:
            ledger.left_out["phrase of many boxes (--boxes)"] += 1
            continue
        yield Item(
            where=f"{captions.name}: caption {same[0].caption}: {same[0].text!r} (chain {same[0].chain})",
            image=find_image(images_dir, f"{image_id}.jpg", captions.name),
            task="grounding",
            phrases=(same[0].text,),
            annotated_wh=chains.size_wh,
            written=written,
            boxes_xyxy=found,
            image_id=image_id,
            file_name=f"{image_id}.jpg",
            source_ann={"chain": same[0].chain, "captions": sorted({it.caption for it in same})},
        )


def _group_by_words(phrases: list[_Phrase], chains: _Chains, ledger: Ledger) -> Iterator[list[_Phrase]]:
    """Group phrases with boxes by their words; leave out words of several chains."""
    by_words: dict[str, list[_Phrase]] = {}
    for phrase in phrases:
        by_words.setdefault(normalize_label(phrase.text), []).append(phrase)
    for same in by_words.values():
        placed = [it for it in same if it.chain in chains.boxes]
        ledger.left_out.update(f"phrase {_why_not(it.chain, chains)}" for it in same if it.chain not in chains.boxes)
        if len({it.chain for it in placed}) > 1:
            ledger.left_out["phrase of several chains of its image"] += len(placed)
        elif placed:
            ledger.notes["phrase repeated in another caption dropped"] += len(placed) - 1
            yield placed


def _why_not(chain: str, chains: _Chains) -> str:
    if chain == _NOT_VISUAL:
        return "of chain 0 (not visual)"
    if chain in chains.scenes:
        return "of a whole scene"
    return "without a box (nobndbox)" if chain in chains.without_box else "of a chain that the xml does not have"


def _select_boxes(boxes: list[list[float]], wanted: str) -> list[list[float]] | None:
    """Return the boxes of a row; None if the phrase makes no row."""
    once = [list(box) for box in dict.fromkeys(map(tuple, boxes))]
    if len(once) == 1 or wanted == "many":
        return once
    if wanted == "single":
        return None
    x1, y1, x2, y2 = zip(*once, strict=True)
    return [[min(x1), min(y1), max(x2), max(y2)]]


@converter("grounding", example="flickr30k_entities flickr30k-images flickr_val.parquet --split val")
def convert(
    entities: Annotated[Path, "Folder with Annotations, Sentences and the lists for --split (train, val, test)."],
    images_dir: Annotated[Path, "Folder of <id>.jpg."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of the captions of a split."""
    require_images(images_dir)
    ids = _image_ids(entities, options.split)
    files = [entities / f"{options.split}.txt", *(path for it in ids for path in _files_of(entities, it))]
    facts = (entities, _read_unrelated(entities), images_dir, options, ledger)
    items = ledger.each(_items, ((image_id, *facts) for image_id in ids))
    return Reading(items=items, files=[path for path in files if os.path.exists(path)], name="Flickr30k Entities")
