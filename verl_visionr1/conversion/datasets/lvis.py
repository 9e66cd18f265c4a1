"""LVIS json -> parquet rows for verl: detection, grounding and counting over a federated vocabulary.

    visionr1 convert lvis lvis_v1_train.json coco lvis_train.parquet --negatives 0.2

Needs `lvis_v1_train.json`, `lvis_v1_val.json` (or v0.5, or a minival), and one folder with COCO's `train2017/` and
`val2017/`, because validation has images of both. On each image only some categories were checked: those with boxes,
and `neg_category_ids`. Rows ask for no others, and never for `not_exhaustive_category_ids`, which may have objects
without boxes. `--negatives` draws from categories known to be absent.

Validation images are in COCO train2017, as are RefCOCO's; `--exclude-image-ids` knows them as `coco:ID`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from verl_visionr1.conversion.coco_json import CocoCategory, read_parts, with_checked
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.conversion.vocabulary import key_of
from verl_visionr1.files import RowsError
from verl_visionr1.settings import needs_one_of

FREQUENCIES = ("r", "c", "f")
"""Frequency of a category in training images: rare (to 10), common (to 100), frequent."""


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/lvis_{task}"
    frequency: Annotated[
        list[str], "Ask only for rare (r), common (c) or frequent (f) categories; repeat the flag for more."
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for frequency in self.frequency:
            if frequency not in FREQUENCIES:
                raise RowsError(f"--frequency {frequency}: {needs_one_of(frequency, FREQUENCIES)}")
        if self.frequency and self.categories:
            raise RowsError("--frequency with --categories: both select categories; give one of them")


def phrases(categories: Sequence[CocoCategory]) -> dict[str, str]:
    """Return category name -> name to ask for.

    >>> phrases([CocoCategory(name="bow_(weapon)"), CocoCategory(name="trash_can")])
    {'bow_(weapon)': 'bow (weapon)', 'trash_can': 'trash can'}
    """
    return {name: " ".join(name.replace("_", " ").split()) for name in (it.name.strip() for it in categories)}


@converter(*BOX_TASKS, example="lvis_v1_train.json coco lvis_rare.parquet --frequency r --negatives 0.2")
def convert(
    annotations: Annotated[Path, "lvis_v1_train.json, ..."],
    images_dir: Annotated[Path, "Folder of train2017/ and val2017/."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of an annotation file; categories of other frequencies are never asked for."""
    parts = read_parts(annotations, images_dir, ledger, options, phrases)
    data = with_checked(parts, ledger, federated=True)
    if options.frequency:
        kept = {parts.category_of[str(key_of(it.id))] for it in parts.categories if it.frequency in options.frequency}
        if not kept:
            reason = f"no category of frequency {' or '.join(sorted(set(options.frequency)))}"
            raise RowsError(f"{annotations}: {reason}; leave out --frequency, or use LVIS's own file")
        data = replace(data, never_asked=frozenset(range(len(data.names))) - kept)
    return plan_reading(data, options, ledger, [annotations])
