"""Every command of `visionr1 convert`, by name; a converter and its packages are imported at first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

CONVERTERS: Mapping[str, str] = MappingProxyType(
    {
        "coco": "COCO json: COCO, Objects365, V3Det, ODinW, Roboflow, CVAT, Label Studio",
        "lvis": "LVIS v1, v0.5: asks only for categories checked on an image",
        "openimages": "Open Images: box csv, verified labels, class tree",
        "voc": "Pascal VOC xml: VOC, LabelImg, CVAT (--zero-based)",
        "yolo": "YOLO txt: Ultralytics, Roboflow, darknet",
        "crowdhuman": "CrowdHuman odgt: whole, visible or head boxes",
        "ovdeval": "OVDEval: hard negatives of each image",
        "d3": "D3 (D-cube): descriptions, also of absent objects",
        "refcoco": "RefCOCO, +, g, gRefCOCO: pickles of every splitBy; parquet of lmms-lab and jxu124",
        "reasonseg": "ReasonSeg (LISA): boxes of polygons",
        "visual_genome": "Visual Genome's region descriptions",
        "flickr30k": "Flickr30k Entities: the phrases of captions",
        "screenspot": "ScreenSpot v1, v2, Pro; SeeClick",
        "pixmo": "PixMo-Count, PixMo-Points; fetch the images first",
        "tallyqa": "TallyQA: its own questions",
        "clevr": "CLEVR's scenes; R1-V's CLEVR-70k, SuperCLEVR",
        "fsc147": "FSC-147, and FSCD-147's boxes",
        "shanghaitech": "ShanghaiTech A and B: crowds",
        "countbench": "CountBenchQA, CountBench (for evaluation only)",
        "vision_r1": "Vision-R1's training data",
        "vlm_r1": "VLM-R1's json and jsonl",
        "records": "any json, jsonl, csv, parquet; rows of EasyR1, ms-swift, Visual-RFT, R1-V, GUI-R1 ...",
    }
)
"""Converter -> its sources. `datasets.<name>.convert` is its declaration."""
TOOLS: Mapping[str, str] = MappingProxyType(
    {
        "exclusion": "List the images of evaluation files, for --exclude-image-ids",
        "scenes": "Draw scenes of coloured shapes with known boxes, as COCO json",
    }
)
"""Other commands -> what they do. `conversion.<name>.main` is the command."""


def load_command(name: str) -> Callable[..., Any]:
    """Return the function that typer turns into a command.

    Args:
        name: of `CONVERTERS` or `TOOLS`.

    Raises:
        ModuleNotFoundError: pyarrow or pillow is missing: the extra `data` is not installed.
    """
    if name in TOOLS:
        return import_module(f"verl_visionr1.conversion.{name}").main
    command_of = import_module("verl_visionr1.conversion.command").command_of
    return command_of(import_module(f"verl_visionr1.conversion.datasets.{name}").convert)


def run_script(name: str) -> None:
    """Run a command as a script of its own."""
    import typer

    typer.run(load_command(name))
