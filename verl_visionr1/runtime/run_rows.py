"""Count a run's rows, prompt lengths and images, and compare them with its settings.

Images are not opened: sizes are in the ground truth, placeholders in the prompt. Image tokens are exact for the
    families
of `processed`; text tokens are a lower bound, so a prompt that is counted as too long is too long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from omegaconf import DictConfig, OmegaConf

from verl_visionr1.conversion.tokens import answer_tokens, load_answer_counter, text_tokens
from verl_visionr1.files import RowsError
from verl_visionr1.frames import FRAMES, MODEL_TYPE_FRAMES, Extent
from verl_visionr1.plugin.config import ConfigError, Settings, settings_of, valid_settings
from verl_visionr1.plugin.data_files import BUDGET_KEY, DATA_KEYS, complete_files, pixel_budget, readable_files
from verl_visionr1.processed import PROCESSORS, ImageProcessor, SizeError, image_processor_of, processed_size
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import open_parquet, read_rows, target_of
from verl_visionr1.runtime.row_images import column_problem, has_other_media, image_counts, row_problem
from verl_visionr1.runtime.trainable import model_type_of
from verl_visionr1.targets import Target, TargetError

_HUB_FAMILIES = (
    (re.compile(r"qwen2-vl", re.I), "qwen2-vl"),
    (re.compile(r"qwen2\.5-vl", re.I), "qwen2.5-vl"),
    (re.compile(r"qwen3(-vl|\.\d)", re.I), "qwen3-vl"),
    (re.compile(r"glm-4.*v", re.I), "glm"),
)
"""Hub models by name -> key in `PROCESSORS`, since their configuration may not be available."""
_TEXT_SHARE = 2
"""Estimates of a text's tokens are right within about 10 %; half of it is a safe lower bound."""
SURE_SHARE = 0.7
"""An answer with an estimate below this share of the budget fits: estimates are right within about 10 %."""


@dataclass(frozen=True, slots=True)
class RowFacts:
    """Counts of a run's files.

    Attributes:
        n_overlong: rows with an image and a prompt longer than data.max_prompt_length; 0 if sizes are unknown.
        most_images: largest number of images in a row.
        n_over_limit: rows with more images than `images_allowed`.
        unreadable: problem of the first row (or column) that verl's data set cannot read; "" for none.
        unclear_image: problem of the first row with several images and no valid `image` in its target; "" for none.
    """

    n_rows: int = 0
    n_overlong: int = 0
    most_images: int = 0
    n_over_limit: int = 0
    unclear_image: str = ""
    unreadable: str = ""

    def __add__(self, other: RowFacts) -> RowFacts:
        return RowFacts(
            self.n_rows + other.n_rows,
            self.n_overlong + other.n_overlong,
            max(self.most_images, other.most_images),
            self.n_over_limit + other.n_over_limit,
            self.unclear_image or other.unclear_image,
            self.unreadable or other.unreadable,
        )


class _Sized(msgspec.Struct):
    """The part of a ground truth with the image's size."""

    size_wh: tuple[int, int] = (0, 0)


def facts_of(config: DictConfig, key: str) -> RowFacts | None:
    """Counts of `data.train_files` or `data.val_files`; None if a file is not readable here."""
    files, found = complete_files(config, key), _facts_by_file(config, key)
    is_known = files and all(file in found for file in files)
    return sum((found[file] for file in files), RowFacts()) if is_known else None


def _facts_by_file(config: DictConfig, key: str) -> dict[Path, RowFacts]:
    """The facts of each readable local file."""
    prompt_key = str(OmegaConf.select(config, "data.prompt_key") or "prompt")
    processor, longest = processor_of(config), int(OmegaConf.select(config, "data.max_prompt_length") or 0)
    limits = longest, images_allowed(config), _delegated_sources(config)
    media = tuple(str(OmegaConf.select(config, f"data.{kind}_key")) for kind in ("image", "video", "audio"))
    found: dict[Path, RowFacts] = {}
    for file in readable_files(config, key):
        try:
            found[file] = _file_facts(file, file.stat().st_mtime_ns, prompt_key, processor, *limits, media)
        except (RowsError, OSError):  # the preflight reports it
            continue
    return found


def _delegated_sources(config: DictConfig) -> tuple[str, ...] | None:
    """Sources whose rows need not name their image; None: no row needs to.

    Models that answer in processed pixels use those of one image. If it is not known which, a right answer about the
    second image is scored in the first one's pixels. Other frames do not depend on the size.
    """
    settings = valid_settings(config)
    if settings is None:
        return None
    frame = FRAMES.get(guess_family(config, settings) or "")
    return tuple(settings.delegate) if frame is None or frame.extent is Extent.PROCESSED else None


def images_allowed(config: DictConfig) -> int | None:
    """vLLM's limit of images in one prompt; None without a limit (`vLLMHttpServer.launch_server`)."""
    rollout = "actor_rollout_ref.rollout"
    if OmegaConf.select(config, f"{rollout}.name") != "vllm":
        return None
    limit = OmegaConf.select(config, f"{rollout}.limit_images")
    if not limit:
        limit = OmegaConf.select(config, f"{rollout}.engine_kwargs.vllm.limit_mm_per_prompt.image")
    if isinstance(limit, DictConfig):
        limit = limit.get("count")
    return limit if isinstance(limit, int) and not isinstance(limit, bool) else None


def processor_of(config: DictConfig) -> ImageProcessor | None:
    """The image processor of the run's model, with the run's budget; None if unknown."""
    path = str(OmegaConf.select(config, "actor_rollout_ref.model.path"))
    folder = Path(path).expanduser()
    processor = image_processor_of(folder) if folder.is_dir() else _hub_processor(path)
    budget, given = pixel_budget(config), OmegaConf.select(config, BUDGET_KEY) or {}
    if any(str(name) not in ("min_pixels", "max_pixels") for name in given):  # another budget, not computed here
        return None
    if processor is None or budget is None:
        return processor
    try:
        return replace(processor, min_pixels=budget[0], max_pixels=budget[1])
    except SizeError:  # `idle_settings` reports it
        return None


def guess_family(config: DictConfig, settings: Settings) -> str | None:
    """Name of the frame of the run's model, without using a hub; None if not known yet."""
    return model_family(config) if settings.frame == "auto" else settings.frame


def model_family(config: DictConfig) -> str | None:
    """Name of the frame that the run's model writes, without using a hub; None if not known yet, "" if unknown."""
    path = str(OmegaConf.select(config, "actor_rollout_ref.model.path"))
    model_type = model_type_of(path)
    if model_type is not None:
        return MODEL_TYPE_FRAMES.get(model_type, "")
    return next((family for pattern, family in _HUB_FAMILIES if pattern.search(path)), None)


def _hub_processor(name: str) -> ImageProcessor | None:
    family = next((family for pattern, family in _HUB_FAMILIES if pattern.search(name)), None)
    return None if family is None else PROCESSORS[family]


@lru_cache(maxsize=64)
def _file_facts(
    file: Path,
    changed_ns: int,
    prompt_key: str,
    processor: ImageProcessor | None,
    longest: int,
    allowed: int | None,
    delegated: tuple[str, ...] | None,
    media: tuple[str, ...],
) -> RowFacts:
    """The facts of one file, cached; `changed_ns` invalidates the cache for a rewritten file."""
    with open_parquet(file) as parquet:
        schema, n_rows = parquet.schema_arrow, parquet.metadata.num_rows
        counts = [None] * n_rows if has_other_media(schema, *media[1:]) else [*image_counts(parquet, media[0])]
    names = schema.names
    columns = [name for name in (prompt_key, "reward_model", *(["data_source"] if delegated else [])) if name in names]
    if prompt_key not in columns:
        return RowFacts(n_rows=n_rows)
    found = RowFacts(n_rows=n_rows, unreadable=column_problem(schema, prompt_key, media[0]))
    for number, (row, count) in enumerate(zip(read_rows(file, columns=columns), counts, strict=True)):
        wrong = "" if found.unreadable else row_problem(row[prompt_key], count)
        text, n_images = _prompt(row[prompt_key])
        tokens = _least_tokens(text, n_images, _size_wh(row.get("reward_model")), processor)
        is_unclear = n_images > 1 and delegated is not None and not found.unclear_image
        found += RowFacts(
            n_overlong=int(tokens is not None and tokens > longest),
            most_images=n_images,
            n_over_limit=int(allowed is not None and n_images > allowed),
            unclear_image=_unclear_image(row, number, n_images, delegated or ()) if is_unclear else "",
            unreadable=wrong and f"row {number}: {wrong}",
        )
    return found


def _unclear_image(row: Mapping[str, Any], number: int, n_images: int, delegated: Sequence[str]) -> str:
    """Why the image of a row's ground truth is unknown among several; "" if known."""
    if is_delegated(delegated, str(row.get("data_source", ""))):
        return ""
    try:
        target = target_of(row)
    except TargetError:  # the preflight reports it
        return ""
    if target.task == "text" or (target.image is not None and target.image < n_images):
        return ""
    named = "names none of them" if target.image is None else f"names image {target.image}"
    return f"row {number} has {n_images} images, and its ground truth {named}; set `image` in the target, from 0"


def _prompt(messages: object) -> tuple[str, int]:
    """Text of a prompt, and its number of images: verl splits a text at each "<image>"."""
    texts: list[str] = []
    n_images = 0
    for message in messages if isinstance(messages, Sequence) and not isinstance(messages, str) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            texts.append(content.replace("<image>", ""))
            n_images += content.count("<image>")
        elif isinstance(content, Sequence):
            parts = [part for part in content if isinstance(part, Mapping)]
            texts += [str(part["text"]) for part in parts if part.get("text")]
            n_images += sum(part.get("type") == "image" for part in parts)
    return "\n".join(texts), n_images


def _size_wh(reward_model: object) -> tuple[int, int] | None:
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    try:
        size_wh = msgspec.json.decode(truth, type=_Sized).size_wh if isinstance(truth, str) else (0, 0)
    except msgspec.DecodeError:
        return None
    return size_wh if min(size_wh) > 0 else None


def _least_tokens(
    text: str, n_images: int, size_wh: tuple[int, int] | None, processor: ImageProcessor | None
) -> int | None:
    """Lower bound of a prompt's tokens; None without an image of known size."""
    if not n_images or size_wh is None or processor is None:
        return None
    try:
        width, height = processed_size(size_wh, processor)
    except SizeError:
        return None
    others = (n_images - 1) * (processor.min_pixels // processor.n_frames // processor.factor**2)
    return width * height // processor.factor**2 + others + text_tokens(text) // _TEXT_SHARE


def image_problems(config: DictConfig) -> list[str]:
    """Files with a row of several images and no valid `image` in its target."""
    return [
        f"{key}: {file}: {facts.unclear_image}"
        for key in DATA_KEYS
        for file, facts in _facts_by_file(config, key).items()
        if facts.unclear_image
    ]


def row_problems(config: DictConfig) -> list[str]:
    """Conflicts of rows and settings: prompt column, prompt length, number of images."""
    if OmegaConf.select(config, "data.custom_cls.path"):  # a user's data set class may read anything
        return []
    problems: list[str] = []
    for key in DATA_KEYS:
        problems += [
            f"{key}: {problem}" for file in readable_files(config, key) if (problem := _no_prompt(config, file))
        ]
        problems += [
            f"{key}: {file}: {facts.unreadable}"
            for file, facts in _facts_by_file(config, key).items()
            if facts.unreadable
        ]
        facts = facts_of(config, key)
        if facts is not None:
            problems += [f"{key}: {problem}" for problem in _fact_problems(config, facts)]
    return problems


def row_notes(config: DictConfig) -> list[str]:
    """Notes on rows that a run drops."""
    notes: list[str] = []
    for key in DATA_KEYS:
        facts = facts_of(config, key)
        if facts is not None and 0 < facts.n_overlong < facts.n_rows:
            notes.append(f"{key}: at least {_overlong(config, facts)}; {_fate(config)}")
    return notes


def _fate(config: DictConfig) -> str:
    if config.data.filter_overlong_prompts:
        return "data.filter_overlong_prompts leaves them out"
    return "verl drops their answers; set data.filter_overlong_prompts=true, or raise data.max_prompt_length"


def _overlong(config: DictConfig, facts: RowFacts) -> str:
    return (
        f"{facts.n_overlong} of {facts.n_rows} rows have prompts longer than "
        f"data.max_prompt_length={config.data.max_prompt_length} tokens"
    )


def _fact_problems(config: DictConfig, facts: RowFacts) -> list[str]:
    problems: list[str] = []
    if facts.n_rows == 0:
        problems.append("its files have no rows; verl fails on an empty data set")
    elif facts.n_overlong == facts.n_rows:
        fate = (
            "data.filter_overlong_prompts leaves none" if config.data.filter_overlong_prompts else "verl drops them all"
        )
        problems.append(
            f"all {_overlong(config, facts)}: {fate}; raise data.max_prompt_length, or set both min_pixels and "
            "max_pixels of data.mm_processor_kwargs lower"
        )
    if facts.n_over_limit:
        problems.append(
            f"{facts.n_over_limit} of {facts.n_rows} rows have up to {facts.most_images} images, and vLLM takes "
            f"{images_allowed(config)} in a prompt ({_limit_key(config)}): it refuses them at the first rollout; raise "
            f"it to {facts.most_images}"
        )
    return problems


def _limit_key(config: DictConfig) -> str:
    rollout = "actor_rollout_ref.rollout"
    given = OmegaConf.select(config, f"{rollout}.limit_images")
    return f"{rollout}.limit_images" if given else f"{rollout}.engine_kwargs.vllm.limit_mm_per_prompt.image"


def _no_prompt(config: DictConfig, file: Path) -> str | None:
    """Message about a missing prompt column, which verl reads in the first row."""
    prompt_key = str(OmegaConf.select(config, "data.prompt_key") or "prompt")
    try:
        with open_parquet(file) as parquet:
            names: list[Any] = parquet.schema_arrow.names
    except RowsError:  # the preflight reports it
        return None
    if prompt_key in names:
        return None
    hint = "set data.prompt_key=prompt" if "prompt" in names else f"set data.prompt_key to one of {', '.join(names)}"
    return f"{file}: no column {prompt_key} (data.prompt_key); {hint}"


def answer_notes(config: DictConfig) -> list[str]:
    """Files with right answers longer than the response budget; one line each.

    Reads every row, so it belongs to a dry run. Reasoning, tags and fences are not counted. Skipped:
    points, and models without a local tokenizer.
    """
    try:
        delegate = settings_of(config).delegate
        count = load_answer_counter(Path(str(config.actor_rollout_ref.model.path)).expanduser())
    except (ConfigError, RowsError):
        return []
    limit, notes = int(config.data.max_response_length), list[str]()
    for key in DATA_KEYS:
        lengths = [length for file in readable_files(config, key) for length in _lengths(file, delegate, count, limit)]
        too_long = [length for length in lengths if length > limit]
        if too_long:
            notes.append(
                f"{key}: the right answer of {len(too_long)} of {len(lengths)} rows is longer than "
                f"data.max_response_length={limit} tokens (longest: {max(too_long)}): it is cut off and never earns "
                f"full reward; set data.max_response_length to more than {max(too_long)}, or leave these rows out"
            )
    return notes


def _lengths(file: Path, delegate: Sequence[str], count: Callable[[Target], int], limit: int) -> Iterator[int]:
    """Tokens of the right answer of each row; an estimate if it is safely within the limit."""
    columns = ["reward_model", *(["data_source"] if delegate else [])]
    try:
        for row in read_rows(file, columns=columns):
            if is_delegated(delegate, str(row.get("data_source", ""))):
                continue
            target = target_of(row)
            if target.task != "pointing":
                estimate = answer_tokens(target)
                yield estimate if estimate <= SURE_SHARE * limit else count(target)
    except (RowsError, TargetError):
        return  # the preflight reports it
