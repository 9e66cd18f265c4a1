"""Which script converts a file that is not in verl's layout, told by its keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from verl_visionr1.tools.doctor.samples import CORNERS, IMAGE_KEYS

_LABEL_KEYS = ("class", "label", "category", "class_name", "cell_type", "name")
_TF_COLUMNS = {"filename", "width", "height", "class", *CORNERS}


def describe_converter(columns: Collection[str]) -> str:
    """The command that converts records of these columns, as far as they tell.

    >>> describe_converter({"filename", "cell_type", "xmin", "ymin", "xmax", "ymax"}).partition(" --")[2]
    'column image=filename --column label=cell_type --column boxes=xmin,ymin,xmax,ymax --box-format xyxy-abs'
    """
    if _TF_COLUMNS.issubset(columns):
        return "data_preprocess/records.py --preset tf-csv"
    if {*CORNERS}.issubset(columns):
        image = next((key for key in IMAGE_KEYS if key in columns), "IMAGE")
        label = next((key for key in _LABEL_KEYS if key in columns), "LABEL")
        sizes = [f" --column {key}={key}" for key in ("width", "height") if key in columns]
        named = f"--column image={image} --column label={label} --column boxes={','.join(CORNERS)}{''.join(sizes)}"
        return f"data_preprocess/records.py {named} --box-format xyxy-abs"
    return "data_preprocess/records.py, or the script of its data set,"


def script_of_json(document: Mapping[str, msgspec.Raw]) -> str:
    """The script of a JSON object that is no COCO json; "" where that is not known.

    >>> script_of_json({"info": msgspec.Raw(b"{}"), "scenes": msgspec.Raw(b"[]")})
    'clevr.py'
    """
    if {"images", "annotations"} & {*document}:
        return ""
    if {"scenes", "questions"} & {*document}:
        return "clevr.py"
    first = next(iter(document.values()), msgspec.Raw(b"null"))
    splits = {"train", "val", "test", "test_coco", "val_coco"}
    if ({*document} <= splits and bytes(first).startswith(b'["')) or b"box_examples_coordinates" in bytes(first):
        return "fsc147.py"
    return ""
