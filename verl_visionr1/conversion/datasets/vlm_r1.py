"""VLM-R1's data (omlab/VLM-R1, and files for its trainers) -> parquet rows for verl.

    visionr1 convert vlm_r1 rec_jsons_processed/refcoco_train.json coco vlm_r1_rec.parquet
    visionr1 convert vlm_r1 ovd.jsonl:mcq.jsonl images/ovd:images/mcq vlm_r1.parquet --reward-method od_ap:mcq

Two layouts, recognized by their keys; several files and their image folders are joined by ":", as in upstream:

* `rec_jsons_processed/*.json`: a list of `{"image": "train2014/COCO_...jpg", "problem", "normal_caption", "bbox_list",
  "solution", "width", "height", ...}`: grounding. `solution` is COCO's box and is used unchanged; `bbox_list` is the
  same box, one pixel short in x2 and y2, and is used only without `solution`.
* training .jsonl: `{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>..."}, {"from": "gpt",
  "value": ...}], "accu_reward_method": "mcq"}`. An answer of boxes (```json [{"bbox_2d": ..., "label": ...}]```,
  `[x1, y1, x2, y2]` or `None`) becomes detection or grounding, any other becomes text. The data source of text
  ends in the reward method (`visionr1/vlm_r1_text_mcq`), so that `routes.data_source` can select a preset.

Boxes are pixels of the original image, or as in `--box-format`. `--plus-one` adds a pixel to x2 and y2 of boxes that
lack it: `bbox_list` without `solution`, and single boxes of conversations made from `bbox_list`. No file states this.
Rows with several images are errors; rows without an image are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from verl_visionr1.conversion.converter import Reading, converter
from verl_visionr1.conversion.flags import BoxFlags, DataSource
from verl_visionr1.conversion.identity import path_name
from verl_visionr1.conversion.image_files import embedded_image, require_images
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.records.solutions import (
    KeepPrompts,
    Solution,
    options_of,
    read_solution,
    without_format,
    without_images,
)
from verl_visionr1.conversion.sources import read_records
from verl_visionr1.conversion.values import ADVICE, record_of, size_of
from verl_visionr1.criteria.text import named_option
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.targets import normalize_label

REC = "Please provide the bounding box coordinate of the region this sentence describes:"
"""Text before an expression."""
OVD = "detect the following objects:"
"""Text before a list of objects."""
OVD_END = "Output each detected target's"
"""Text after that list."""
BOX_METHODS = ("map", "weighted_sum", "od_ap", "od_ap50", "odLength")
"""Reward methods with boxes or "None" as answers."""


@dataclass(frozen=True, kw_only=True)
class Options(BoxFlags):
    """The command's flags; `--help` explains each."""

    data_source: DataSource = "visionr1/vlm_r1_{task}"
    keep_prompts: KeepPrompts = False
    reward_method: Annotated[str, "Reward method of rows without one; or one per file, joined by ':'."] = "default"
    plus_one: Annotated[
        bool, "Add a pixel to x2 and y2 of bbox_list without solution, and of single boxes of conversations."
    ] = False


def _one_each(flag: str, joined: str, count: int) -> list[str]:
    values = joined.split(":")
    if len(values) not in (1, count):
        raise RowsError(f"{flag} {joined}: {len(values)} values for {count} files; give one for all, or one for each")
    return values if len(values) == count else values * count


def _items(sources: Sequence[tuple[Path, Path, str]], options: Options, ledger: Ledger) -> Iterator[Item]:
    for path, folder, method in sources:
        for where, record in read_records(path):
            with ledger.skipping():
                record = record_of(record, where)
                image = _image_name(where, record)
                if image is None:
                    ledger.left_out["row without an image"] += 1
                elif "conversations" in record:
                    yield _of_conversation(where, record, image, folder, method, options)
                else:
                    yield _of_expression(where, record, image, folder, options, ledger)


def _image_name(where: str, record: Mapping[str, Any]) -> str | None:
    """Return the one image of a row, or None."""
    value = record.get("image")
    names = value if isinstance(value, list) else [value] if value else []
    if len(names) > 1:
        raise RowError("several images", f"{where}: {len(names)} images: a row has one; leave such rows out")
    if names and not isinstance(names[0], str):
        raise RowError("no image", f"{where}: image {str(names[0])[:60]!r}: needs a file name; {ADVICE}")
    return names[0] if names else None


def _of_expression(
    where: str, record: Mapping[str, Any], image: str, folder: Path, options: Options, ledger: Ledger
) -> Item:
    problem = without_images(str(record.get("problem") or ""))
    caption = record.get("normal_caption")
    phrase = expression_in(caption) or caption if isinstance(caption, str) else expression_in(problem)
    if not phrase or not phrase.strip():
        reason = f"no normal_caption, and problem {problem[:80]!r} has no known wording"
        raise RowError("unknown wording", f"{where}: {reason}; {ADVICE}")
    boxes, written = _boxes(where, record, options, ledger), options.convention("xyxy-abs")
    phrase = phrase.strip().removesuffix(".")
    return Item(
        where=where,
        image=embedded_image(image, where, folder),
        task="grounding",
        phrases=(phrase,),
        prompt=problem if options.keep_prompts and problem else None,
        annotated_wh=size_of(record.get("width"), record.get("height"), where),
        boxes_xyxy=[written.as_corners(box) for box in boxes],
        written=written,
        image_id=Path(path_name(image)).stem,
        file_name=image,
        source_ann={"entry": where, "set": str(record.get("dataset_name", "")), "id": str(record.get("original_id"))},
    )


def expression_in(problem: str) -> str | None:
    """Return the expression of a problem in VLM-R1's wording; None for another wording.

    >>> expression_in(f"{REC} the left cat. First output the thinking process in <think> </think> tags.")
    'the left cat'
    """
    before, found, behind = without_format(problem).partition(REC)
    return behind.strip().removesuffix(".") or None if found and not before.strip() else None


def _boxes(where: str, record: Mapping[str, Any], options: Options, ledger: Ledger) -> list[list[float]]:
    """Return the boxes of `solution` if it is in pixels, else those of `bbox_list`."""
    solution, short = (_boxes_in(where, record.get(key)) for key in ("solution", "bbox_list"))
    if solution is not None:
        if solution == _boxes_in(where, record.get("normalized_solution")):
            reason = "solution is normalized_solution (for InternVL, in 0-1000, floored)"
            raise RowError("box of a model's frame", f"{where}: {reason}; use the file with boxes in pixels")
        return solution
    if short is None:
        given = record.get("bbox_list") or record.get("solution")
        raise RowError("no box", f"{where}: neither bbox_list nor solution has a box ({str(given)[:60]}); {ADVICE}")
    if options.plus_one:
        return list(map(_with_pixel, short))
    ledger.notes["bbox_list without solution: used unchanged; VLM-R1's own is a pixel short (--plus-one adds it)"] += 1
    return short


def _boxes_in(where: str, value: Any) -> list[list[float]] | None:
    """Return the boxes of a value, or None."""
    return (read_solution(value, where).boxes or None) if value and isinstance(value, list | str) else None


def _with_pixel(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] + 1, box[3] + 1]


def _of_conversation(
    where: str, record: Mapping[str, Any], image: str, folder: Path, method: str, options: Options
) -> Item:
    question, answer = _turns(where, record["conversations"])
    method = str(record.get("accu_reward_method") or method)
    if not re.fullmatch(r"\w{1,40}", method):
        raise RowError("unknown reward method", f"{where}: accu_reward_method {method!r}: needs a name; {ADVICE}")
    solution = read_solution(answer, where)
    about_boxes = method in BOX_METHODS or OVD in question or expression_in(question) is not None
    if solution.boxes is not None and (about_boxes or not solution.is_none):
        made = _boxes_of(question, solution, options)
    elif about_boxes:
        reason = f"the question asks for boxes, but the answer is {solution.text[:80]!r}"
        raise RowError("answer unreadable", f"{where}: {reason}: needs boxes or None; {ADVICE}")
    elif solution.points is not None:
        made = {"task": "pointing", "question": without_format(question), "points_xy": solution.points}
        made["written"] = options.convention("xyxy-abs")
    else:
        made = _words_of(where, question, solution.text, method, options)
    return Item(
        where=where,
        image=embedded_image(image, where, folder),
        prompt=question if options.keep_prompts else None,
        image_id=Path(path_name(image)).stem,
        file_name=image,
        source_ann={"entry": where, "id": str(record.get("id", "")), "reward_method": method},
        **made,
    )


def _turns(where: str, turns: Any) -> tuple[str, Any]:
    """Return question and answer."""
    try:
        user, assistant = turns
        roles, question = (user["from"], assistant["from"]), without_images(user["value"])
        if roles != ("human", "gpt") or not question:
            raise ValueError
        return question, assistant["value"]
    except (TypeError, ValueError, KeyError):
        reason = f"conversations {str(turns)[:100]!r}: needs one turn of human with a text, and one of gpt"
        raise RowError("malformed conversation", f"{where}: {reason}; {ADVICE}") from None


def _boxes_of(question: str, solution: Solution, options: Options) -> dict[str, Any]:
    """Return task, phrases and boxes; the question is kept if its phrases are unknown."""
    boxes, written = solution.boxes or [], options.convention("xyxy-abs")
    if options.plus_one and not solution.labels:
        boxes = list(map(_with_pixel, boxes))
    made: dict[str, Any] = {"boxes_xyxy": [written.as_corners(box) for box in boxes], "written": written}
    phrase = expression_in(question)
    listed = _listed(question)
    spelled = {normalize_label(name): name for name in reversed(listed)}
    if phrase is not None and len({*map(normalize_label, solution.labels)}) <= 1:
        return {**made, "task": "grounding", "phrases": (phrase,)}
    if listed and len(solution.labels) == len(boxes) and all(normalize_label(it) in spelled for it in solution.labels):
        labels = [spelled[normalize_label(label)] for label in solution.labels]
        return {**made, "task": "detection", "phrases": listed, "labels": labels}
    question = without_format(question)
    labels = solution.labels or [question] * len(boxes)
    phrases = tuple(dict.fromkeys(labels)) or (question,)
    task = "detection" if len(phrases) > 1 else "grounding"
    return {**made, "task": task, "question": question, "phrases": phrases, "labels": labels}


def _listed(question: str) -> tuple[str, ...]:
    """Return the objects in the list of an OVD prompt; () for another wording."""
    _, found, behind = question.partition(OVD)
    listed = behind.partition(OVD_END)[0].strip().removesuffix(".")
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip())) if found else ()


def _words_of(where: str, question: str, answer: str, method: str, options: Options) -> dict[str, Any]:
    """Return a question with an answer in words, and its options if it is multiple choice."""
    choices = options_of(question) if method == "mcq" or (method == "default" and len(answer) == 1) else ()
    if choices and named_option(answer, choices) is None:
        if method == "mcq":
            reason = f"the answer {answer[:80]!r} is none of the options {', '.join(choices)[:120]}"
            raise RowError("answer is no option", f"{where}: {reason}; {ADVICE}")
        choices = ()
    return {
        "task": "text",
        "question": without_format(question),
        "answer": answer,
        "choices": choices,
        "data_source": options.data_source.replace("{task}", f"text_{method}"),
    }


@converter(
    "grounding",
    "detection",
    "pointing",
    "counting",
    "text",
    example="rec_jsons_processed/refcoco_train.json coco vlm_r1_rec.parquet",
)
def convert(
    files: Annotated[str, ".json or .jsonl files, joined by ':'."],
    image_folders: Annotated[str, "Folder of the images; one for each file, joined by ':', or one for all."],
    options: Options,
    ledger: Ledger,
) -> Reading:
    """The rows of json or jsonl files."""
    paths = [Path(name) for name in str(files).split(":")]
    folders = [Path(name) for name in _one_each("IMAGE_FOLDERS", str(image_folders), len(paths))]
    for folder in folders:
        require_images(folder, "IMAGE_FOLDERS")
    methods = _one_each("--reward-method", options.reward_method, len(paths))
    sources = list(zip(paths, folders, methods, strict=True))
    preview = _items(sources, options, Ledger(fail=False)) if options.negatives != 0 else ()
    allow_none = any(item.is_negative for item in preview)
    return Reading(items=_items(sources, options, ledger), files=paths, allow_none=allow_none)
