"""What a model is shown: prompts and images as in training, and where the tokens of an answer start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scripted import TINY, row_of, write_rows
from tokenizers import Tokenizer

from verl_visionr1.evaluation.generation.engine import token_starts
from verl_visionr1.evaluation.generation.prompts import Asked, asked_rows, messages_of
from verl_visionr1.files import RowError

TOKENIZER = Tokenizer.from_file(str(TINY / "tokenizer.json"))
N_VOCABULARY = TOKENIZER.get_vocab_size()


def decode(ids: Sequence[int]) -> str:
    return TOKENIZER.decode(list(ids), skip_special_tokens=True)


@given(st.lists(st.integers(0, N_VOCABULARY - 1), max_size=40))
def test_any_tokens_start_where_the_text_so_far_ends(ids: list[int]) -> None:
    text, starts = decode(ids), token_starts(decode, ids)
    assert len(starts) == len(ids)
    assert list(starts) == sorted(starts)
    for i, start in enumerate(starts):
        assert decode(ids[:i]).startswith(text[:start]), "what stands before a token is what was said before it"
        assert set(decode(ids[:i])[start:]) <= {"\ufffd"}, "and nothing of it is left out but pieces of a character"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_tokens_of_a_text_start_where_the_tokenizer_says(text: str) -> None:
    """A twin: the offsets that the tokenizer itself gives when it takes the text apart."""
    encoded = TOKENIZER.encode(text, add_special_tokens=False)
    if TOKENIZER.decode(encoded.ids, skip_special_tokens=False) != text or decode(encoded.ids) != text:
        return  # a text that is normalised, or names a special token
    assert token_starts(decode, encoded.ids) == tuple(start for start, _ in encoded.offsets)


def test_a_decoder_that_drops_the_first_space() -> None:
    """As SentencePiece does: a token decoded alone is not what it is inside a text."""
    words = {0: " a", 1: " box", 2: " at"}
    drops = lambda ids: "".join(words[i] for i in ids).removeprefix(" ")  # noqa: E731
    assert drops([0, 1, 2]) == "a box at"
    assert token_starts(drops, [0, 1, 2]) == (0, 1, 5)


def test_images_stand_where_the_prompt_says() -> None:
    row = row_of(0, ["a.png", {"path": "b.png"}], "See <image> and <image>: where?")
    (turn,) = messages_of(row, "here")
    assert turn["content"] == [
        {"type": "text", "text": "See "},
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": " and "},
        {"type": "image", "image": "b.png"},
        {"type": "text", "text": ": where?"},
    ]
    assert messages_of(row_of(0, None, "How many?"), "here") == [{"role": "user", "content": "How many?"}]
    with pytest.raises(RowError, match="here: its prompt has 1 <image> for 2 images"):
        messages_of(row_of(0, ["a.png", "b.png"]), "here")
    with pytest.raises(RowError, match="here: its prompt has 2 <image> for 1 images"):
        messages_of(row_of(0, ["a.png"], "<image><image>"), "here")
    with pytest.raises(RowError, match="here: its prompt"):
        messages_of(row_of(0) | {"prompt": "Where?"}, "here")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rows by path and embedded, with one image, two, and none."""
    folder = tmp_path_factory.mktemp("rows")
    for i, size in enumerate([(64, 48), (150, 100), (31, 77)]):
        Image.effect_noise(size, 80).convert("RGB").save(folder / f"{i}.png")
    paths = [str(folder / f"{i}.png") for i in range(3)]
    by_path = [
        row_of(0, [paths[0]]),
        row_of(1, [paths[1]], "Look: <image>\nLocate every é in it. Output JSON."),
        row_of(2, paths[1:], "<image>Or <image>?"),
        row_of(3, [], "How many legs has a cat?"),
    ]
    embedded = [row_of(i, [{"bytes": Path(paths[i]).read_bytes()}]) for i in range(3)]
    return [write_rows(folder / "paths.parquet", by_path), write_rows(folder / "embedded.parquet", embedded)]


@pytest.mark.verl
@pytest.mark.parametrize("budget", [None, (1024, 16384)])
def test_the_model_sees_what_training_shows_it(files: list[Path], budget: tuple[int, int] | None) -> None:
    """A twin of verl's data set, its agent loop's tokens and what it hands to vLLM."""
    import numpy as np
    from omegaconf import OmegaConf
    from verl.utils import hf_processor, hf_tokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
    from verl.workers.rollout.utils import get_vision_placeholder_token_ids, qwen2_5_vl_dedup_image_tokens

    from verl_visionr1.evaluation.generation.prompts import Prompts

    processor, tokenizer = hf_processor(str(TINY)), hf_tokenizer(str(TINY))
    kwargs = dict(zip(("min_pixels", "max_pixels"), budget, strict=True)) if budget else {}
    prompts = Prompts(TINY, *(budget or (None, None)))
    assert prompts.mm_processor_kwargs == kwargs
    assert sorted(prompts.banned) == sorted(get_vision_placeholder_token_ids(processor))
    builder = create_continuous_token_builder(
        tokenizer, hf_model_type="qwen3_vl", mm_processor_kwargs=kwargs, processor=processor
    )
    config = OmegaConf.create({"filter_overlong_prompts": False, "mm_processor_kwargs": kwargs})
    for file in files:
        theirs = RLHFDataset([str(file)], tokenizer, config, processor)
        for asked in asked_rows([file]):
            ours = prompts.question(asked)
            messages = theirs[asked.number]["raw_prompt"]
            images, _, _ = RLHFDataset._process_multi_modal_info(messages, theirs.image_patch_size, config)
            mm_inputs: dict[str, Any] = {}
            token_ids = builder.build_initial_tokens(messages, images=images, mm_inputs_out=mm_inputs)
            assert ours.token_ids == qwen2_5_vl_dedup_image_tokens(token_ids, processor)
            assert len(ours.images) == len(images or [])
            for our_image, their_image in zip(ours.images, images or [], strict=True):
                assert np.array_equal(np.asarray(our_image), np.asarray(their_image))
            assert ours.n_prompt == len(token_ids)
            assert ours.prediction.input == tokenizer.decode(token_ids, skip_special_tokens=True)
            if images:
                _, rows, columns = mm_inputs["image_grid_thw"][0].tolist()
                assert ours.prediction.processed_wh == (columns * 16, rows * 16) == prompts.grid_wh(images[0])


@pytest.mark.verl
def test_arguments_of_the_chat_template_reach_it(files: list[Path]) -> None:
    from verl_visionr1.evaluation.generation.prompts import Prompts

    asked = next(asked_rows(files))
    plain, given = Prompts(TINY), Prompts(TINY, chat_template_kwargs={"add_generation_prompt": False})
    assert given.question(asked).token_ids == plain.question(asked).token_ids[: len(given.question(asked).token_ids)]
    assert given.question(asked).token_ids != plain.question(asked).token_ids


@pytest.mark.verl
def test_rows_that_no_model_can_be_shown(tmp_path: Path) -> None:
    from verl_visionr1.evaluation.generation.prompts import Prompts

    prompts = Prompts(TINY)
    (tmp_path / "text.png").write_text("no image")
    picture = tmp_path / "whole.png"
    Image.new("RGB", (64, 48)).save(picture)
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:60])
    Image.new("RGB", (4000, 8)).save(tmp_path / "thin.png")
    for name in ("gone.png", "text.png", "cut.png", "thin.png"):
        with pytest.raises(RowError, match=r"v\.parquet: row 3: its image cannot be loaded"):
            prompts.question(Asked(Path("v.parquet"), 3, row_of(3, [str(tmp_path / name)])))
    with pytest.raises(RowError, match=r"v\.parquet: row 3: reward_model\.ground_truth is null"):
        prompts.question(Asked(Path("v.parquet"), 3, row_of(3, [str(picture)], truth=None)))
    many = row_of(3, [str(picture)] * 9, "<image>" * 9)
    with pytest.raises(RowError, match="9 images; at most 8"):
        prompts.question(Asked(Path("v.parquet"), 3, many))
