"""Compare a run's rows with its settings: prompt lengths, images, answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_visionr1.conversion.tokens import answer_tokens, load_answer_counter
from verl_visionr1.files import RowsError
from verl_visionr1.frames import FRAMES, MODEL_TYPE_FRAMES, Extent
from verl_visionr1.plugin.config import Settings, valid_settings
from verl_visionr1.plugin.data_files import BUDGET_KEY, DATA_KEYS, complete_files, pixel_budget, readable_files
from verl_visionr1.processed import PROCESSORS, ImageProcessor, SizeError, image_processor_of
from verl_visionr1.rewards.routing import is_delegated
from verl_visionr1.rows import read_rows, schema_of, target_of
from verl_visionr1.runtime.model_checks import config_file, model_type_of
from verl_visionr1.runtime.prompt_rows import Reading, RowFacts, count_rows
from verl_visionr1.targets import Target, TargetError

_HUB_FRAMES = (
    (re.compile(r"qwen2-vl", re.I), "qwen2-vl"),
    (re.compile(r"qwen2\.5-vl", re.I), "qwen2.5-vl"),
    (re.compile(r"qwen3(-vl|\.\d)", re.I), "qwen3-vl"),
    (re.compile(r"glm-4.*v", re.I), "glm"),
)
"""Name of a hub model -> its frame, also the key of its processor; for models whose config.json is not here."""
NO_FRAME = ""
"""Instead of the name of a frame: the model's config.json is here, and no frame is known for its `model_type`."""
_ROLLOUT = "actor_rollout_ref.rollout"
SURE_SHARE = 0.7
"""An answer with an estimate below this share of the budget fits: estimates are right within about 10 %."""


def facts_of(config: DictConfig, key: str) -> RowFacts | None:
    """Counts of `data.train_files` or `data.val_files`; None if a file is not readable here."""
    files, found = complete_files(config, key), _facts_by_file(config, key)
    if not files or any(file not in found for file in files):
        return None
    each = [found[file] for file in files]
    return RowFacts(
        n_rows=sum(facts.n_rows for facts in each),
        n_overlong=sum(facts.n_overlong for facts in each),
        most_images=max(facts.most_images for facts in each),
        n_over_limit=sum(facts.n_over_limit for facts in each),
    )


def _facts_by_file(config: DictConfig, key: str) -> dict[Path, RowFacts]:
    """The facts of each readable local file."""
    how = Reading(
        prompt_key=str(OmegaConf.select(config, "data.prompt_key") or "prompt"),
        media=tuple(
            str(OmegaConf.select(config, f"data.{kind}_key") or f"{kind}s") for kind in ("image", "video", "audio")
        ),
        processor=processor_of(config),
        longest=int(OmegaConf.select(config, "data.max_prompt_length") or 0),
        allowed=images_allowed(config),
        delegated=_delegated_sources(config),
    )
    found: dict[Path, RowFacts] = {}
    for file in readable_files(config, key):
        try:
            found[file] = count_rows(file, file.stat().st_mtime_ns, how)
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
    frame = FRAMES.get(guess_frame(config, settings) or NO_FRAME)
    return tuple(settings.delegate) if frame is None or frame.extent is Extent.PROCESSED else None


def images_allowed(config: DictConfig) -> int | None:
    """vLLM's limit of images in one prompt; None without a limit (`vLLMHttpServer.launch_server`)."""
    if OmegaConf.select(config, f"{_ROLLOUT}.name") != "vllm":
        return None
    limit = OmegaConf.select(config, _limit_key(config))
    if isinstance(limit, DictConfig):
        limit = limit.get("count")
    return limit if isinstance(limit, int) and not isinstance(limit, bool) else None


def _limit_key(config: DictConfig) -> str:
    given = OmegaConf.select(config, f"{_ROLLOUT}.limit_images")
    return f"{_ROLLOUT}.limit_images" if given else f"{_ROLLOUT}.engine_kwargs.vllm.limit_mm_per_prompt.image"


def processor_of(config: DictConfig) -> ImageProcessor | None:
    """The image processor of the run's model, with the run's budget; None if unknown."""
    path = str(OmegaConf.select(config, "actor_rollout_ref.model.path"))
    folder, name = Path(path).expanduser(), _hub_frame(path)
    processor = PROCESSORS[name] if name else None
    if folder.is_dir():
        processor = image_processor_of(folder)
    budget, given = pixel_budget(config), OmegaConf.select(config, BUDGET_KEY) or {}
    if any(str(name) not in ("min_pixels", "max_pixels") for name in given):  # another budget, not computed here
        return None
    if processor is None or budget is None:
        return processor
    try:
        return replace(processor, min_pixels=budget[0], max_pixels=budget[1])
    except SizeError:  # `idle_settings` reports it
        return None


def guess_frame(config: DictConfig, settings: Settings) -> str | None:
    """Name of the frame that answers are read in: that of the settings, else as `guess_model_frame`."""
    return guess_model_frame(config) if settings.frame == "auto" else settings.frame


def guess_model_frame(config: DictConfig) -> str | None:
    """Name of the frame that the run's model writes, without using a hub.

    Returns:
        A key in `FRAMES`; `NO_FRAME`; None if the model's config.json is not here and its name tells nothing.
    """
    path = str(OmegaConf.select(config, "actor_rollout_ref.model.path"))
    model_type = model_type_of(path)
    return _hub_frame(path) if model_type is None else MODEL_TYPE_FRAMES.get(model_type, NO_FRAME)


def _hub_frame(name: str) -> str | None:
    return next((frame for pattern, frame in _HUB_FRAMES if pattern.search(name)), None)


def row_problems(config: DictConfig) -> list[str]:
    """Conflicts of rows and settings: prompt column, prompt length, images."""
    if OmegaConf.select(config, "data.custom_cls.path"):  # a user's data set class may read anything
        return []
    problems: list[str] = []
    for key in DATA_KEYS:
        found = [problem for file in readable_files(config, key) if (problem := _no_prompt(config, file))]
        for file, facts in _facts_by_file(config, key).items():
            problem = facts.unreadable or facts.unclear_image
            found += [f"{file}: {problem}"] if problem else []
        total = facts_of(config, key)
        found += [] if total is None else _total_problems(config, total)
        problems += [f"{key}: {problem}" for problem in found]
    return problems


def row_notes(config: DictConfig) -> list[str]:
    """Notes on rows that a run drops."""
    notes: list[str] = []
    fate = "verl drops their answers; set data.filter_overlong_prompts=true, or raise data.max_prompt_length"
    if OmegaConf.select(config, "data.filter_overlong_prompts"):
        fate = "data.filter_overlong_prompts leaves them out"
    for key in DATA_KEYS:
        facts = facts_of(config, key)
        if facts is not None and 0 < facts.n_overlong < facts.n_rows:
            notes.append(f"{key}: at least {_overlong(config, facts)}; {fate}")
    return notes


def _overlong(config: DictConfig, facts: RowFacts) -> str:
    return (
        f"{facts.n_overlong} of {facts.n_rows} rows have prompts longer than "
        f"data.max_prompt_length={config.data.max_prompt_length} tokens"
    )


def _total_problems(config: DictConfig, facts: RowFacts) -> Iterator[str]:
    if facts.n_rows == 0:
        yield "its files have no rows; verl fails on an empty data set"
    elif facts.n_overlong == facts.n_rows:
        yield (
            f"all {_overlong(config, facts)}, so no row is left; raise data.max_prompt_length, or set both min_pixels "
            "and max_pixels of data.mm_processor_kwargs lower"
        )
    if facts.n_over_limit:
        key = _limit_key(config)
        yield (
            f"{facts.n_over_limit} of {facts.n_rows} rows have up to {facts.most_images} images, and vLLM takes "
            f"{images_allowed(config)} in a prompt ({key}): vLLM refuses them at the first rollout; raise {key} to "
            f"{facts.most_images}"
        )


def _no_prompt(config: DictConfig, file: Path) -> str:
    """Message about a missing prompt column, which verl reads in the first row; "" for none."""
    prompt_key = str(OmegaConf.select(config, "data.prompt_key") or "prompt")
    try:
        names = schema_of(file).names
    except RowsError:  # the preflight reports it
        return ""
    if prompt_key in names:
        return ""
    return f"{file}: no column {prompt_key} (data.prompt_key); set data.prompt_key to one of {', '.join(names)}"


def answer_notes(config: DictConfig) -> list[str]:
    """Files with right answers longer than the response budget; one line each.

    Reads every row, so it belongs to a dry run. Reasoning, tags and fences are not counted. Lengths are estimates if
    the model's tokenizer is not here. A file with an unreadable row is left out: the preflight reports it.
    """
    settings, path = valid_settings(config), str(config.actor_rollout_ref.model.path)
    if settings is None:
        return []
    try:
        count, about = load_answer_counter((config_file(path) or Path(path).expanduser() / "config.json").parent), ""
    except RowsError:
        count, about = answer_tokens, "about "
    limit, notes = int(config.data.max_response_length), list[str]()
    for key in DATA_KEYS:
        files = readable_files(config, key)
        lengths = [length for file in files for length in _lengths(file, settings, count, limit)]
        too_long = [length for length in lengths if length > limit]
        if too_long:
            notes.append(
                f"{key}: the right answer of {len(too_long)} of {len(lengths)} rows is longer than "
                f"data.max_response_length={limit} tokens (longest: {about}{max(too_long)}): it is cut off and never "
                f"earns full reward; set data.max_response_length to more than {max(too_long)}, or leave these rows out"
            )
    return notes


def _lengths(file: Path, settings: Settings, count: Callable[[Target], int], limit: int) -> list[int]:
    """Tokens of the right answer of each row, an estimate if safely within the limit; [] if a row is unreadable."""
    lengths: list[int] = []
    columns = ["reward_model", *(["data_source"] if settings.delegate else [])]
    try:
        for row in read_rows(file, columns=columns):
            if is_delegated(settings.delegate, str(row.get("data_source", ""))):
                continue
            estimate = answer_tokens(target := target_of(row))
            lengths.append(estimate if estimate <= SURE_SHARE * limit else count(target))
    except (RowsError, TargetError):
        return []
    return lengths
