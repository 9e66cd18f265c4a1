"""OVDEval json -> parquet rows for verl: open vocabulary detection and grounding with hard negatives.

    visionr1 convert ovdeval annotations/negation.json images/negation negation.parquet --split val

`annotations/{negation,celebrity,color,landmark,logo,material,position,relationship}.json` in COCO's layout, images in
`images/<the same name>/`. Each image lists what to ask for: `text` is present, `neg_text` (a hard negative: "computer
with screen on") is absent. Rows ask only for these: a detection row for the list, a grounding row for each phrase, with
all of `neg_text` unless `--negatives` limits it. For celebrity, landmark and logo the authors' evaluation asks every
image for all categories of the file: `--all-categories`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from verl_visionr1.conversion.coco_json import CocoImage, CocoParts, read_parts
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.conversion.vocabulary import AnnotatedImage
from verl_visionr1.files import RowError, RowsError

NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/ovdeval_{task}"
    all_categories: Annotated[bool, "Ask every image for all categories of the file instead of its own texts."] = False


def _with_texts(parts: CocoParts, ledger: Ledger, *, all_categories: bool) -> list[AnnotatedImage]:
    """Return the images with the categories to ask for; `all_categories`: all except those present without a box."""
    index = {name: i for i, name in enumerate(parts.data.names)}
    texts: dict[int, CocoImage] = dict(parts.entries)
    images: list[AnnotatedImage] = []
    for number, image in enumerate(parts.data.images):
        where = f"{parts.data.name}: image id {image.image_id}"
        entry = texts.get(number, CocoImage(text=[], neg_text=[]) if all_categories else CocoImage())
        present = parts.data.categories_on(number)
        try:
            positive = _indexes(f"{where}: text", entry.text, index)
            negative = _indexes(f"{where}: neg_text", entry.neg_text, index)
        except RowError as error:
            ledger.skip(error)
            images.append(replace(image, checked=NOTHING))
            continue
        ledger.notes["text without a box on its image: not asked for there"] += len(positive - present)
        unsure = positive - present
        if all_categories:
            images.append(replace(image, unsure=image.unsure | unsure))
            continue
        ledger.notes["neg_text with a box on its image: used as present"] += len(negative & present)
        unlisted = "category with a box on an image whose texts lack it (--all-categories)"
        ledger.left_out[unlisted] += len(present - positive - negative)
        images.append(replace(image, checked=positive | negative, unsure=image.unsure | unsure))
    return images


def _indexes(where: str, texts: Any, index: Mapping[str, int]) -> frozenset[int]:
    """Return the categories of a list of texts."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RowError("malformed text", f"{where} = {str(texts)[:80]!r}: needs a list of texts; correct it")
    unknown = [text for text in texts if text.strip() not in index]
    if unknown:
        raise RowError("unknown text", f"{where}: {unknown[0]!r} is not a category of the file; correct it")
    return frozenset(index[text.strip()] for text in texts)


@converter(*BOX_TASKS, example="annotations/color.json images/color color.parquet --task grounding")
def convert(
    annotations: Annotated[Path, "annotations/<subset>.json."],
    images_dir: Annotated[Path, "images/<subset>."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of an annotation file."""
    parts = read_parts(annotations, images_dir, ledger, options)
    if not parts.entries and parts.data.images and not options.all_categories:
        reason = "no image has text or neg_text, OVDEval's lists of categories to ask for"
        raise RowsError(f"{annotations}: {reason}; give --all-categories, or use `visionr1 convert coco`")
    images = _with_texts(parts, ledger, all_categories=options.all_categories)
    return plan_reading(replace(parts.data, images=images, own_negatives=True), options, ledger, [annotations])
