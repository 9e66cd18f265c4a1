"""Find the command that converts a file that is not in verl's layout, from its keys and numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from shlex import quote

from verl_visionr1.conversion.conventions import FEWEST, UNITS, likeliest_convention
from verl_visionr1.tools.doctor.samples import IMAGE_KEYS, SIZE_KEYS
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
    "phrase": (
        *("phrase", "caption", "expression", "expr", "ref", "refexp", "referring", "referring_expression", "sentence"),
        *("description", "instruction"),
    ),
    "label": ("class", "label", "labels", "category", "categories", "class_name", "cell_type", "name"),
    "question": ("question", "problem", "query"),
}
"""Kind of question -> its keys."""
_TRUTHS = {"count": ("count", "number"), "solution": ("solution",), "answer": ("answer",)}
_OF_A_RUN = (
    (frozenset(("input", "output", "gts", "score")), "answers of a run; `visionr1 score {0}`, `visionr1 explain {0}`"),
    (frozenset(("step", "data")), "metrics of a run; `visionr1 watch RUN_DIR`"),
)
"""Keys of verl's own files, and what reads them."""


def describe_run_file(keys: Collection[str], path: Path) -> str:
    """Return what a file of a run is, and the commands for it; "" for any other file.

    >>> describe_run_file(("input", "output", "gts", "score", "step"), Path("run/validation"))
    'answers of a run; `visionr1 score run/validation`, `visionr1 explain run/validation`'
    """
    return next((text.format(quote(str(path))) for own, text in _OF_A_RUN if own.issubset(keys)), "")


def describe_command(census: Census, images_dir: Path | None) -> str:
    """Return the command that converts a foreign file; unknown parts are in capitals.

    >>> census = Census("a.jsonl", columns=dict.fromkeys(("image", "question", "answer"), "a"))
    >>> describe_command(census, None).split(" --column ")
    ['`visionr1 convert records a.jsonl a.parquet', 'image=image', 'question=question', 'answer=answer`']
    """
    if census.columns.keys() >= _RESULTS:
        return "a detector's results have scores and no ground truth: no command"
    if converter := converter_of(census.columns):
        return f"`visionr1 convert {converter}`"
    path = Path(census.file)
    out = path.with_suffix(".parquet") if path.suffix != ".parquet" else path.with_name(f"{path.stem}_verl.parquet")
    words = ["visionr1 convert records", quote(str(path)), quote(str(out))]
    words += ["--images-dir", quote(str(images_dir))] if images_dir is not None else []
    preset = next((name for name, keys in _PRESETS.items() if keys <= census.columns.keys()), None)
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
    image = f"={quote(census.image_key)}" if census.image_key else _first({"": IMAGE_KEYS}, columns)
    yield f"--column image{image or '=IMAGE'}"
    what, place, box_format = _places(census)
    size = next((keys for keys in SIZE_KEYS if columns.keys() >= {*keys} and not {*keys} & {*place.split(",")}), ())
    yield from (f"--column {name}={columns[key]}" for name, key in zip(("width", "height"), size, strict=False))
    if what == "boxes":
        yield f"--column boxes={quote(place)} --box-format {box_format}"
        yield f"--column {_first(_ASKED, columns) or 'label=LABEL'}"
        return
    truth = f"points={quote(place)} --box-format {box_format}" if place else _first(_TRUTHS, columns)
    names = _ASKED["label"] if truth and not truth.startswith("answer") else ()  # of what is counted or pointed at
    asked = {"question": _ASKED["question"], "phrase": (*_ASKED["phrase"], *names)}
    yield f"--column {_first(asked, columns) or 'question=QUESTION'}"
    yield f"--column {truth or 'answer=ANSWER'}"


def _first(known: Mapping[str, tuple[str, ...]], columns: Mapping[str, str]) -> str:
    """Return the first known column as `what=name`, or ""."""
    found = (f"{what}={quote(columns[key])}" for what, keys in known.items() for key in keys if key in columns)
    return next(found, "")


def _places(census: Census) -> tuple[str, str, str]:
    """Return "boxes" or "points", the column with most of them, and their format; "" if there are none."""
    found = {place: boxes for place, boxes in census.boxes.items() if census.columns.keys() >= {*place.split(",")}}
    if found:
        place, (boxes, sizes) = max(found.items(), key=lambda it: len(it[1][0]))
        named = likeliest_convention(boxes, sizes).name if len(boxes) >= FEWEST else ""
        return "boxes", place, named or "FORMAT"
    points = next(((place, found) for place, found in census.points.items() if place in census.columns), None)
    if points is None:
        return "", "", ""
    return "points", points[0], f"xyxy-{UNITS[points[1].smaller_unit('pixels') or 'pixels']}"
