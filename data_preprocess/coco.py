"""COCO-format detection json -> parquet rows for verl: detection (a category list), grounding, counting (one phrase).

    python data_preprocess/coco.py instances_train2017.json train2017 coco_train.parquet --on-error skip

COCO itself, Objects365, V3Det, ODinW and what Roboflow, CVAT or Label Studio export as COCO.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from verl_visionr1.conversion.coco_json import read_coco
from verl_visionr1.conversion.command import run
from verl_visionr1.conversion.flags import DataSource
from verl_visionr1.conversion.planning import VocabularyFlags, write_annotations
from verl_visionr1.conversion.writing import Report, new_ledger
from verl_visionr1.files import RowsError


@dataclass(frozen=True, kw_only=True)
class Options(VocabularyFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/coco_{task}"
    alias: Annotated[
        list[str],
        typer.Option(help="CATEGORY=NAME: ask for NAME instead (Cottontail-Rabbit=rabbit).", show_default=False),
    ] = field(default_factory=list)

    @property
    def aliases(self) -> dict[str, str]:
        """Category -> the name to ask for."""
        pairs = [text.partition("=") for text in self.alias]
        for (name, _, other), text in zip(pairs, self.alias, strict=True):
            if not name.strip() or not other.strip():
                raise RowsError(f"--alias {text}: needs CATEGORY=NAME")
        return {name.strip(): other.strip() for name, _, other in pairs}


def convert(
    annotations: Path, images_dir: Path, out: Path, options: Options | None = None, *, show_progress: bool = False
) -> Report:
    """The whole road from annotation file to parquet.

    Raises:
        RowsError: bad input file, flag, or disk. RowError: a bad row, with `on_error="fail"`.
    """
    options = options or Options()
    ledger = new_ledger(options)
    data = read_coco(annotations, images_dir, ledger, options, options.aliases)
    return write_annotations(
        data, out, options, ledger, made_by="data_preprocess/coco.py", files=[annotations], show_progress=show_progress
    )


def main(
    annotations: Annotated[Path, typer.Argument(help="COCO-format detection json.", show_default=False)],
    images_dir: Annotated[Path, typer.Argument(help="Folder that file_name is relative to.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="File to write, <name>.parquet.", show_default=False)],
    flags: Options,
) -> Report:
    """Turn COCO-format detection json into the parquet that verl reads.

    Example: python data_preprocess/coco.py instances_val2017.json val2017 coco_val.parquet --split val --limit 500
    """
    return convert(annotations, images_dir, out, flags, show_progress=Console().is_terminal)


if __name__ == "__main__":
    run(main)
