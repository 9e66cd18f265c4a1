"""Test with verl's own data set class whether verl can load files, on the first rows of each."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.rows import open_parquet

N_ROWS = 8
"""Rows of each file that are tested; schema and encoding are the same for the rest."""


def loading_problem(files: Sequence[Path]) -> str | None:
    """Why verl's `RLHFDataset` cannot load some parquet files together; None if it can.

    The first rows of each file are copied (with the schema and its metadata), loaded as the trainer loads
    `data.train_files`, and each is read with its images.

    Raises:
        RowsError: a file that is not parquet.
        ModuleNotFoundError: verl is not installed.
    """
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    with tempfile.TemporaryDirectory() as folder, _datasets_in(Path(folder)):
        heads = [_head(file, Path(folder) / f"{number}.parquet") for number, file in enumerate(files)]
        processor = type("Processor", (), {"image_processor": type("ImageProcessor", (), {"patch_size": 14})()})()
        config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": folder})
        at = "together"
        try:
            loaded: Any = RLHFDataset(heads, tokenizer=None, config=config, processor=processor)  # type: ignore[arg-type]
            for number in range(len(loaded)):
                at = f"its row {number} of the first {N_ROWS} rows each"
                row = loaded[number]
                loaded._process_multi_modal_info(row["raw_prompt"], 14, config)
        except Exception as error:  # noqa: BLE001 - any error here would stop the trainer
            reason = " ".join(str(error).split())[:300]
            return (
                f"verl's RLHFDataset cannot load {', '.join(map(str, files))} ({at}): {type(error).__name__}: {reason}"
            )
    return None


def _head(file: Path, out: Path) -> str:
    with open_parquet(file) as parquet:
        batch = next(parquet.iter_batches(batch_size=N_ROWS), None)
        schema = parquet.schema_arrow
    pq.write_table(pa.Table.from_batches([batch] if batch is not None else [], schema=schema), out)
    return str(out)


@contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    """Use a temporary folder for Hugging Face's cache, without progress bars."""
    import datasets
    from datasets import config

    before = config.HF_DATASETS_CACHE
    bars = datasets.are_progress_bars_disabled()
    config.HF_DATASETS_CACHE = folder
    datasets.disable_progress_bars()
    try:
        with redirect_stdout(io.StringIO()):  # verl prints what it loads
            yield
    finally:
        config.HF_DATASETS_CACHE = before
        if not bars:
            datasets.enable_progress_bars()
