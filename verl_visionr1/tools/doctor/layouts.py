"""Find the command that converts a file that is not in verl's layout, from its keys and numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from shlex import quote

from verl_visionr1.conversion.conventions import FEWEST, likeliest_convention
from verl_visionr1.tools.doctor.samples import IMAGE_KEYS
from verl_visionr1.tools.doctor.sets import Census

_CONVERTERS: Mapping[str, tuple[frozenset[str], ...]] = {
    "coco": (frozenset(("images", "annotations")),),
    "vlm_r1": (frozenset(("problem", "normal_caption", "bbox_list")), frozenset(("image", "conversations"))),
    "vision_r1": (frozenset(("problem", "solution", "target_id_maps")),),
    "refcoco": (frozenset(("ref_id", "ann_id", "sentences")), frozenset(("question_id", "answer", "segmentation"))),
    "crowdhuman": (frozenset(("ID", "gtboxes")),),
    "openimages": (frozenset(("LabelName", "Subcategory")),),
    "visual_genome": (frozenset(("id", "regions")), frozenset(("image_id", "coco_id", "flickr_id"))),
    "tallyqa": (frozenset(("image", "question", "answer", "question_id", "data_source")),),
    "clevr": (frozenset(("image_path", "question", "ground_truth")), frozenset(("scenes",)), frozenset(("questions",))),
    "screenspot": (frozenset(("img_filename", "bbox", "instruction")),),
    "pixmo": (frozenset(("image_url", "image_sha256")),),
    "countbench": (frozenset(("image", "question", "number")),),
    "reasonseg": (frozenset(("text", "is_sentence", "shapes")),),
}
"""Converter -> keys of its files."""
_RESULTS = frozenset(("image_id", "category_id", "bbox", "score"))
_PRESETS: Mapping[str, frozenset[str]] = {
    "gui-r1": frozenset(("instruction", "gt_bbox")),
    "rex-thinker": frozenset(("image_name", "referring", "ans")),
    "seg-zero": frozenset(("problem", "solution", "img_width")),
    "easyr1": frozenset(("problem", "answer")),
    "ms-swift": frozenset(("messages", "objects")),
    "llamafactory": frozenset(("messages", "images")),
}
"""Preset of `records` -> keys of its rows."""
_ASKED = {
    "phrase": ("phrase", "caption", "expression", "referring", "sentence", "description", "instruction"),
    "label": ("class", "label", "labels", "category", "categories", "class_name", "cell_type", "name"),
    "question": ("question", "problem", "query"),
}
"""Kind of question -> its keys."""
_TRUTHS = {"count": ("count", "number"), "solution": ("solution",), "answer": ("answer",)}


def describe_command(census: Census, images_dir: Path | None) -> str:
    """Return the command that converts a foreign file; unknown parts are in capitals.

    >>> census = Census("a.jsonl", columns=frozenset(("image", "question", "answer")))
    >>> describe_command(census, None).split(" --column ")
    ['`visionr1 convert records a.jsonl a.parquet', 'image=image', 'question=question', 'answer=answer`']
    """
    if census.columns >= _RESULTS:
        return "a detector's results have scores and no ground truth: no command"
    if converter := converter_of(census.columns):
        return f"`visionr1 convert {converter}`"
    path = Path(census.file)
    out = path.with_suffix(".parquet") if path.suffix != ".parquet" else path.with_name(f"{path.stem}_verl.parquet")
    words = ["visionr1 convert records", quote(str(path)), quote(str(out))]
    words += ["--images-dir", quote(str(images_dir))] if images_dir is not None else []
    preset = next((name for name, keys in _PRESETS.items() if keys <= census.columns), None)
    words += ["--preset", preset] if preset is not None else _columns(census)
    return f"`{' '.join(words)}`"


def converter_of(keys: Collection[str]) -> str:
    """Return the converter for these keys, or "".

    >>> converter_of({"ID", "gtboxes"}), converter_of({"image", "caption"})
    ('crowdhuman', '')
    """
    found = (name for name, layouts in _CONVERTERS.items() if any(layout.issubset(keys) for layout in layouts))
    return next(found, "")


def _columns(census: Census) -> Iterator[str]:
    """Yield the options that name the columns."""
    names = sorted(census.columns, key=lambda name: (-name.count("."), name))  # an outer column overrides a nested one
    columns = {name.rpartition(".")[2]: name for name in names}
    yield f"--column image={_first({'': IMAGE_KEYS}, columns).removeprefix('=') or 'IMAGE'}"
    yield from (f"--column {name}={name}" for name in ("width", "height") if name in census.columns)
    place, box_format = _boxes(census)
    if place:
        yield f"--column boxes={place} --box-format {box_format}"
        yield f"--column {_first(_ASKED, columns) or 'label=LABEL'}"
    else:
        asked = {what: _ASKED[what] for what in ("question", "phrase")}
        yield f"--column {_first(asked, columns) or 'question=QUESTION'}"
        yield f"--column {_first(_TRUTHS, columns) or 'answer=ANSWER'}"


def _first(known: Mapping[str, tuple[str, ...]], columns: Mapping[str, str]) -> str:
    """Return the first known column as `what=name`, or ""."""
    found = (f"{what}={quote(columns[key])}" for what, keys in known.items() for key in keys if key in columns)
    return next(found, "")


def _boxes(census: Census) -> tuple[str, str]:
    """Return the column with most boxes, and their format, or ""."""
    found = {place: boxes for place, boxes in census.boxes.items() if place in census.columns}
    if not found:
        return "", ""
    place, (boxes, sizes) = max(found.items(), key=lambda it: len(it[1][0]))
    named = likeliest_convention(boxes, sizes).name if len(boxes) >= FEWEST else ""
    return quote(place), named or "FORMAT"
