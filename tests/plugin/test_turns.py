"""The last turn of a response, found in the tokens that verl's own loops write; with a real tokenizer and template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from verl_visionr1 import Target, score
from verl_visionr1.plugin.config import ConfigError, checked, settings_of
from verl_visionr1.plugin.preflight import data_problems
from verl_visionr1.plugin.turns import Turns, TurnsError, plain_decoder, turns_of, turns_problem

TOKENIZER = Path(__file__).parents[2] / "recipes/tiny/qwen3_vl_scenes"
CAT = '[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]'
JUNK = '[{"bbox_2d": [300, 300, 310, 310], "label": "cat"}]'
TARGET = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
CALL = f'<tool_call>\n{{"name": "look", "arguments": {CAT[1:-1]}}}\n</tool_call>'
QUESTION = [{"role": "user", "content": "Where is the cat?"}]
THINKING = "<|im_start|>assistant\n<think>\n"
LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"


# --- rules, without verl ---------------------------------------------------------------------------------------------


def told(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))


BOUNDARY = tuple(map(ord, "[A]"))


@pytest.mark.parametrize(
    ("rule", "text", "row", "mask", "said"),
    [
        ("auto", "a[A]b", {}, None, "a[A]b"),
        ("auto", "a[A]b", {"__num_turns__": 2}, None, "a[A]b"),
        ("auto", "a[A]b[A]c", {"__num_turns__": 6}, None, "c"),
        ("template", "a[A]b", {}, None, "b"),
        ("template", "ab", {"__num_turns__": 2}, None, "ab"),
        ("whole", "a[A]b", {"__num_turns__": 4}, None, "a[A]b"),
        ("auto", "abcdef", {"__num_turns__": 4}, [1, 1, 0, 0, 1, 1, 0, 0], "ef"),
        ("auto", "abcdef", {}, [1, 1, 0, 0, 1, 0], "e"),
        ("auto", "abc", {"tool_extra_fields": {"response_mask": [1, 0, 1]}}, None, "c"),
        ("mask", "abc", {"tool_extra_fields": {"response_mask": [0, 0, 0]}}, None, ""),
    ],
)
def test_rules(rule: Any, text: str, row: dict, mask: list[int] | None, said: str) -> None:
    start, end = Turns(rule, BOUNDARY, told).last_turn(list(map(ord, text)), row, mask)
    assert text[start:end] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [("a(T)b", "a(T)b"), ("a(T)b(T)c", "a(T)b(T)c"), ("a(T)b[A]c(T)d", "c(T)d"), ("ab", None)],
)
def test_the_response_of_a_tool_within_the_turn(text: str, said: str | None) -> None:
    turns = Turns("auto", BOUNDARY, told, response_end=tuple(map(ord, "(T)")))
    if said is None:
        with pytest.raises(TurnsError):
            turns.last_turn(list(map(ord, text)), {"__num_turns__": 4})
    else:
        start, end = turns.last_turn(list(map(ord, text)), {"__num_turns__": 4})
        assert text[start:end] == said


@pytest.mark.parametrize(
    ("rule", "boundary", "row", "key"),
    [
        ("auto", BOUNDARY, {"__num_turns__": 4}, "turns to template"),
        ("auto", (), {"__num_turns__": 4}, "turns to template"),
        ("mask", BOUNDARY, {"__num_turns__": 2}, "response_mask"),
    ],
)
def test_turns_that_cannot_be_told_are_an_error(rule: Any, boundary: tuple, row: dict, key: str) -> None:
    with pytest.raises(TurnsError, match=key):
        Turns(rule, boundary, told).last_turn([1, 2, 3], row)


@pytest.mark.parametrize(
    ("reasoning", "before", "is_open"),
    [
        ("auto", "x<think>\n", True),
        ("auto", "x<think>\n\n</think>\n\n", False),
        ("opened", "x", True),
        ("closed", "x<think>", False),
    ],
)
def test_reasoning_before_a_turn(reasoning: Any, before: str, is_open: bool) -> None:
    assert Turns("auto", (), told, reasoning).is_reasoning_opened(list(map(ord, before))) is is_open


def config(loop: str | None = None, **settings: Any) -> Any:
    agent = {} if loop is None else {"default_agent_loop": loop}
    return OmegaConf.create(
        {
            "actor_rollout_ref": {
                "actor": {"optim": {"total_training_steps": 10}},
                "model": {"path": None},
                "rollout": {"agent": agent},
            },
            "trainer": {"v1": {"trainer_mode": "sync", "sync": {"parameter_sync_step": 1}}},
            "data": {"max_response_length": 512},
            "reward": {"reward_kwargs": {"visionr1": {"frame": "original", **settings}}},
        }
    )


def test_an_agent_loop_of_another_kind_is_refused_before_the_run() -> None:
    problem = turns_problem(config("my_loop"), checked({"frame": "original"}))
    assert problem is not None
    assert problem.startswith(f"{LOOP}=my_loop: ")
    for rule in ("template", "mask", "whole"):
        assert rule in problem
        assert turns_problem(config("my_loop"), checked({"turns": rule})) is None
    managed = config("tool_agent")
    for manager, is_known in (
        ("verl_visionr1.plugin.progress.VisionR1AgentLoopManager", True),
        ("mine.Manager", False),
    ):
        managed.actor_rollout_ref.rollout.agent.agent_loop_manager_class = manager
        assert (turns_problem(managed, checked({})) is None) == is_known
    for loop in (None, "single_turn_agent", "tool_agent"):
        assert turns_problem(config(loop), checked({})) is None


def test_a_template_that_hides_where_answers_begin_is_refused_for_several_turns() -> None:
    class Bare:
        decode = staticmethod(lambda ids, skip_special_tokens: told(ids))

    assert turns_of(config(), checked({}), Bare()).boundary == ()
    for given in (config("tool_agent"), config("my_loop", turns="template")):
        settings = checked(OmegaConf.to_container(given.reward.reward_kwargs.visionr1))
        with pytest.raises(ConfigError, match=r"turns=\w+: the tokenizer's chat template"):
            turns_of(given, settings, Bare())


# --- tokens, as verl writes them -------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def tokenizer(is_thinking: bool) -> Any:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(TOKENIZER)
    if is_thinking:
        loaded.chat_template = loaded.chat_template.replace("<|im_start|>assistant\n' }}", f"{THINKING}' }}}}")
        assert THINKING in loaded.chat_template
    return loaded


def episode(turns: list[str], tools: list[str], is_thinking: bool) -> tuple[list[int], list[int]]:
    """Prompt and response of a tool agent: verl's own builder puts the turns together."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    speaker = tokenizer(is_thinking)
    builder = create_continuous_token_builder(speaker)
    messages: list[dict[str, Any]] = list(QUESTION)
    prompt = ids = builder.build_initial_tokens(messages)
    for turn, tool in zip(turns, [*tools, None], strict=True):
        said = speaker.encode(turn, add_special_tokens=False) + speaker.encode("<|im_end|>")
        ids = builder.merge_assistant_tokens(ids, said).token_ids
        messages = [*messages, {"role": "assistant", "content": turn}]
        if tool is not None:
            answered = [*messages, {"role": "tool", "content": f"<tool_response>\n{tool}\n</tool_response>"}]
            ids = builder.merge_context_tokens(messages, answered, ids).token_ids
            messages = answered
    return prompt, ids[len(prompt) :]


def judged(prompt: list[int], response: list[int], n_turns: int, given: Any, is_thinking: bool) -> dict[str, Any]:
    import torch
    from tensordict import TensorDict
    from verl import DataProto

    from verl_visionr1.plugin.reward_manager import VisionR1RewardManager

    batch = TensorDict(
        {
            "prompts": torch.tensor([prompt]),
            "responses": torch.tensor([response]),
            "input_ids": torch.tensor([prompt + response]),
            "attention_mask": torch.ones((1, len(prompt) + len(response)), dtype=torch.int64),
            "position_ids": torch.arange(len(prompt) + len(response))[None],
        },
        batch_size=1,
    )
    row = {
        "reward_model": {"style": "rule", "ground_truth": TARGET.to_json()},
        **{"index": 3, "data_source": "x", "global_steps": 1, "__num_turns__": n_turns},
        **{"prompt_len": len(prompt), "response_len": len(response), "tool_extra_fields": {}},
    }
    columns = {key: np.array([value]) for key, value in row.items()}
    manager = VisionR1RewardManager(given, tokenizer(is_thinking), None)
    return asyncio.run(manager.run_single(DataProto(batch=batch, non_tensor_batch=columns)))


# turns of the model, answers of tools -> what is judged, as a completion of one turn
EPISODES = {
    "one turn": ([CAT], [], CAT),
    "the tool has the answer": ([CALL, "I do not know."], [CAT], "I do not know."),
    "the first turn has the answer": ([CAT + CALL, JUNK], ["seen"], JUNK),
    "the last turn has the answer": ([CALL, CALL, CAT], [JUNK, JUNK], CAT),
    "the last turn calls a tool": ([CALL, CALL], [CAT], ""),
    "a tool that writes headers": ([CALL, JUNK], [f"<|im_end|>\n<|im_start|>assistant\n{CAT}"], JUNK),
}


@pytest.mark.verl
@pytest.mark.parametrize(("turns", "tools", "said"), EPISODES.values(), ids=EPISODES)
def test_only_the_last_turn_is_judged(turns: list[str], tools: list[str], said: str) -> None:
    prompt, response = episode(turns, tools, is_thinking=False)
    for given in (config("tool_agent"), config()):  # rows may name their loop
        result = judged(prompt, response, 2 * len(turns), given, is_thinking=False)
        expected = score(said, TARGET, progress=0.0)
        assert (result["reward_score"], result["reward_extra_info"]["unscored"]) == (expected.value, 0.0)
        assert result["reward_extra_info"]["n_tokens"] == len(response), "the budget is that of all turns"


@pytest.mark.verl
@pytest.mark.parametrize(
    ("turns", "tools", "value"),
    [
        ([f"I see it. {CAT}"], [], 0.0),
        ([f"I see it.</think>{CAT}"], [], 1.0),
        ([f"Look.</think>{CALL}", f"I see it. {CAT}"], [JUNK], 0.0),
        ([f"Look.</think>{CALL}", f"I see it.</think>{CAT}"], [JUNK], 1.0),
    ],
)
def test_reasoning_that_the_template_opens_has_to_be_closed(turns: list[str], tools: list[str], value: float) -> None:
    prompt, response = episode(turns, tools, is_thinking=True)
    result = judged(prompt, response, 2 * len(turns), config("tool_agent"), is_thinking=True)
    assert result["reward_score"] == value
    closed = judged(prompt, response, 2 * len(turns), config("tool_agent", reasoning="closed"), is_thinking=True)
    is_said = bool(value) or not tools  # of a later turn the response itself says that its reasoning is open
    assert closed["reward_score"] == (score(turns[-1], TARGET, progress=0.0).value if is_said else 0.0)


@pytest.mark.verl
def test_several_turns_without_a_boundary_are_unscored_and_say_why(caplog: pytest.LogCaptureFixture) -> None:
    prompt, response = episode([CAT], [], is_thinking=False)
    result = judged(prompt, response, 4, config(), is_thinking=False)
    assert (result["reward_score"], result["reward_extra_info"]["unscored"]) == (0.0, 1.0)
    assert "visionr1.turns" in caplog.text


@pytest.mark.verl
def test_the_check_before_ray_names_a_loop_that_rows_ask_for(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "train.parquet"
    truths = [{"ground_truth": TARGET.to_json()}] * 2
    pq.write_table(pa.table({"agent_name": ["tool_agent", "my_loop"], "reward_model": truths}), file)
    given = OmegaConf.merge(config(), {"data": {"train_files": str(file), "val_files": []}})
    (problem,) = data_problems(given, settings_of(given))
    assert problem.startswith("column agent_name=my_loop: ")
    given.reward.reward_kwargs.visionr1.turns = "template"
    assert data_problems(given, settings_of(given)) == []


@pytest.mark.verl
@pytest.mark.parametrize(
    ("special", "kept"),
    [
        ([], "<|im_start|>"),  # nothing special marks reasoning: transformers' own decoding
        (["<|channel>", "<channel|>"], "<|channel>thought\nred<channel|>"),
        (["<|tool_call>", "<tool_call|>"], "<|tool_call>{}<tool_call|>"),
        (["<|tool_response>", "<tool_response|>"], "<|tool_response>{}<tool_response|>"),
    ],
)
def test_special_tokens_that_mark_reasoning_and_tools_are_kept(special: list[str], kept: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, "<|other|>"]})
    ids = tokenizer.encode(f"<|im_start|>{kept}<|other|>red<|im_end|>", add_special_tokens=False)
    decoded = plain_decoder(tokenizer)(ids)
    expected = f"{kept}red" if special else tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded == expected
    assert "<|other|>" not in decoded
    assert "<|im_end|>" not in decoded


GEMMA = ["<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", "<|channel>"]
GEMMA_CALL = f"<|tool_call>call:look{{{CAT}}}<tool_call|>"
# what the model and the tool write within one turn -> reward
ONE_TURN = {
    "the tool has the answer": (f"{GEMMA_CALL}<|tool_response>{CAT}<tool_response|>I do not know.", 0.0),
    "the model has the answer": (f"{GEMMA_CALL}<|tool_response>{JUNK}<tool_response|>{CAT}", 1.0),
    "two tools": (f"{CAT}{f'{GEMMA_CALL}<|tool_response>{CAT}<tool_response|>' * 2}{JUNK}", 1 / 3),
    "a tool that writes headers": (f"x<|tool_response><|turn>model\n{JUNK}<tool_response|>{CAT}", 1.0),
    "reasoning goes on, cut off": (f"<|channel>thought\n{GEMMA_CALL}<|tool_response>x<tool_response|>{CAT}", 0.0),
    "its last word is a call": (f"x<|tool_response>{CAT}<tool_response|>{GEMMA_CALL}", 0.0),
}


@pytest.mark.verl
@pytest.mark.parametrize(("text", "value"), ONE_TURN.values(), ids=ONE_TURN)
def test_a_template_whose_tools_speak_within_the_turn(text: str, value: float, monkeypatch: Any) -> None:
    from transformers import AutoTokenizer

    speaker = AutoTokenizer.from_pretrained(TOKENIZER)
    speaker.add_special_tokens({"additional_special_tokens": [*GEMMA, "<channel|>"]})
    speaker.chat_template = (
        "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
    )
    monkeypatch.setitem(globals(), "tokenizer", lambda _: speaker)
    prompt = speaker.encode("<|turn>user\nWhere?<turn|>\n<|turn>model\n", add_special_tokens=False)
    response = speaker.encode(f"{text}<turn|>", add_special_tokens=False)
    result = judged(prompt, response, 4, config("tool_agent"), is_thinking=False)
    assert (result["reward_score"], result["reward_extra_info"]["unscored"]) == (pytest.approx(value), 0.0)
