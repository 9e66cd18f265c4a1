"""A finished run of `recipes/tiny_visionr1_cpu.sh` (seed 2), to try the tools on without training.

    python docs/example/restore.py outputs/tiny_visionr1_cpu

unpacks its three validations and its metrics, writes its run record, and draws the 200 held-out scenes again (the same
bytes as in the run).
"""

from __future__ import annotations

import gzip
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

HERE = Path(__file__).parent
FILES = {
    "0.jsonl.gz": "validation/0.jsonl",
    "11.jsonl.gz": "validation/11.jsonl",
    "22.jsonl.gz": "validation/22.jsonl",
    "metrics.jsonl.gz": "metrics/run.jsonl",
}
"""What is kept here -> where the run had it."""


def restore(run_dir: Path) -> Path:
    """Make the run's folder.

    Args:
        run_dir: a folder to make; files that are there already are written again.

    Returns:
        The parquet of the held-out rows, `run_dir/data/val.parquet`.
    """
    unpack(run_dir)
    data = draw_scenes(run_dir / "data", n_val=200)
    write_record(run_dir, data)
    return data


def unpack(run_dir: Path) -> None:
    """Validations and metrics, without images."""
    for name, place in FILES.items():
        file = run_dir / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.decompress((HERE / name).read_bytes()))


def write_record(run_dir: Path, data: Path) -> None:
    """Write visionr1_run.json with the run's settings, from which all tools know preset, frame, steps and images."""
    from verl_visionr1.rewards import PRESETS, Routes
    from verl_visionr1.rollouts.run import Start, presets_of, write_run

    start = Start(
        **presets_of(Routes(PRESETS["visionr1"]), "qwen3-vl"),
        frame="qwen3-vl",
        total_steps=22,
        n_steps=22,
        max_tokens=80,
        val_files=[str(data.absolute())],
        validation_dir=str(run_dir.absolute() / "validation"),
        checkpoint_dir=str(run_dir.absolute() / "checkpoints"),
    )
    write_run(start)


def draw_scenes(folder: Path, n_val: int) -> Path:
    """Draw held-out scenes and convert them as the recipe does; returns the parquet."""
    scenes, data = folder / "scenes", folder / "val.parquet"
    _run("scenes", scenes, "--train", 1, "--val", n_val, "--objects-min", 2)
    flags = ("--split", "val", "--negatives", 0, "--data-source", "visionr1/scenes_{task}")
    convert(scenes / "annotations" / "instances_val.json", scenes / "val", data, *flags)
    return data


def convert(annotations: Path, images: Path, out: Path, *flags: object) -> None:
    """Rows of detection from a COCO file."""
    _run("coco", annotations, images, out, "--task", "detection", *flags)


def _run(*words: object) -> None:
    from verl_visionr1.cli import app

    with redirect_stdout(io.StringIO()):
        code = app(["convert", *map(str, words)], standalone_mode=False)
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    run_dir = Path(sys.argv[1])
    print(restore(run_dir))
    print(f"next: visionr1 report {run_dir}; visionr1 score {run_dir}; visionr1 gallery {run_dir}")
