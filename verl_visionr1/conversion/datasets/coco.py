"""COCO-format detection json -> parquet rows for verl: detection (a category list), grounding, counting (one phrase).

    visionr1 convert coco instances_train2017.json train2017 coco_train.parquet --on-error skip

Reads COCO, Objects365, V3Det, ODinW, and COCO exports of Roboflow, CVAT and Label Studio.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from verl_visionr1.conversion.coco_json import read_coco
from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.planning import BOX_TASKS, VocabularyFlags, plan_reading
from verl_visionr1.files import RowsError


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/coco_{task}"
    alias: Annotated[list[str], "CATEGORY=NAME: ask for NAME instead (Cottontail-Rabbit=rabbit)."] = field(
        default_factory=list
    )

    @property
    def aliases(self) -> dict[str, str]:
        """Category -> the name to ask for."""
        pairs = [text.partition("=") for text in self.alias]
        for (name, _, other), text in zip(pairs, self.alias, strict=True):
            if not name.strip() or not other.strip():
                raise RowsError(f"--alias {text}: needs CATEGORY=NAME")
        return {name.strip(): other.strip() for name, _, other in pairs}


@converter(*BOX_TASKS, example="instances_val2017.json val2017 coco_val.parquet --split val --limit 500")
def convert(
    annotations: Annotated[Path, "COCO-format detection json."],
    images_dir: Annotated[Path, "Folder that file_name is relative to."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of an annotation file."""
    data = read_coco(annotations, images_dir, ledger, options, options.aliases)
    return plan_reading(data, options, ledger, [annotations])
