"""What of a completion is the model's answer: several turns, calls of tools, reasoning that the prompt opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from verl_visionr1 import PRESETS, RewardError, Target, score
from verl_visionr1.answers import FORMATS, PARSERS, Defect
from verl_visionr1.answers.transcript import (
    _MARK,
    _OTHER_REASONING,
    REASONING_TAGS,
    TOOL_CALLS,
    TOOL_RESPONSES,
    is_reasoning_opened,
    last_turn,
    opens_reasoning,
    reasoning_end,
    spoken_text,
)
from verl_visionr1.answers.words import answer_in
from verl_visionr1.cli import app
from verl_visionr1.criteria import CRITERIA
from verl_visionr1.evaluation.predictions import Prediction, uid_of
from verl_visionr1.evaluation.reading import read_all
from verl_visionr1.frames import FRAMES
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout

CAT = '[{"bbox_2d": [100, 100, 200, 200], "label": "cat"}]'
TARGET = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
SEVEN = Target(task="counting", size_wh=(640, 480), count=7)
POINT = Target(task="pointing", size_wh=(640, 480), points_xy=[[150, 150]], labels=["cat"])
DOG = Target(task="text", answer="a dog")
CALL = f'<tool_call>\n{{"name": "zoom", "arguments": {CAT[1:-1]}}}\n</tool_call>'
TOOL = f"{CALL}\nuser\n<tool_response>\n{CAT}\n</tool_response>\nassistant\n"
"""What verl decodes of a turn with a call, and the tool's answer: without special tokens."""

# text -> what the model says in its last turn
TURNS = {
    "one turn": (CAT, CAT),
    "after a tool, as verl's dumps have it": (TOOL + CAT, CAT),
    "after two tools": (f"{TOOL}look\n{TOOL}{CAT}", CAT),
    "after a tool, reasoning opened again": (f"{TOOL}<think>\nso</think>{CAT}", f"<think>\nso</think>{CAT}"),
    "a tool speaks last": (f"{CALL}\nuser\n<tool_response>\n{CAT}\n</tool_response>", ""),
    "a tool's answer that is cut off": (f"{CALL}\nuser\n<tool_response>\n{CAT}", ""),
    "a call alone": (CALL, ""),
    "a call that is cut off": (f"I look. {CALL[:40]}", "I look. "),
    "an answer and a call": (f"{CAT}{CALL}", CAT),
    "Qwen's headers": (f"{CAT}<|im_end|>\n<|im_start|>user\nno<|im_end|>\n<|im_start|>assistant\nnone", "\nnone"),
    "an observation speaks last": (f"x<|im_end|>\n<|im_start|>observation\n{CAT}", ""),
    "a header with nothing after it": (f"{CAT}<|im_end|>\n<|im_start|>assistant\n", CAT),
    "Qwen's end of turn": (f"<|im_start|>assistant\n{CAT}<|im_end|>\n", f"\n{CAT}"),
    "two ends": (f"{CAT} <|im_end|>\n<|endoftext|>", f"{CAT} "),
    "Gemma's end of turn": (f"<start_of_turn>model\n{CAT}<end_of_turn>\n", f"\n{CAT}"),
    "Gemma 4's end of turn": (f"{CAT}<turn|>", CAT),
    "Llama's end of turn": (f"<|start_header_id|>assistant<|end_header_id|>\n\n{CAT}<|eot_id|>", f"\n\n{CAT}"),
    "Llama's call": (f"I look. <|python_tag|>{CAT}<|eom_id|>", "I look. "),
    "a call and the end of the turn": (f"{CAT}{CALL}<|im_end|>", CAT),
    "a call in a call": (f"x<tool_call><tool_call>y</tool_call>{CAT}</tool_call>", "x"),
    "two calls": (f"<tool_call>x</tool_call>{CAT}<tool_call>y</tool_call>", CAT),
    "GLM's headers": (f"x<|observation|>\n{CAT}<|assistant|>\nnone", "\nnone"),
    "GLM, whose end of turn is a header": (f"{CAT}<|user|>", CAT),
    "Gemma's headers": (
        f"x<end_of_turn>\n<start_of_turn>user\n{CAT}<end_of_turn>\n<start_of_turn>model\nnone",
        "\nnone",
    ),
    "Llama's headers": (
        f"<|start_header_id|>tool<|end_header_id|>{CAT}<|start_header_id|>assistant<|end_header_id|>n",
        "n",
    ),
    "Kimi's headers": (f"<|im_user|>user<|im_middle|>{CAT}<|im_assistant|>assistant<|im_middle|>none", "none"),
    "a user's line": (f"{CAT}\nuser\nWrong.\nassistant\nnone", "none"),
    "an observation's line": (f"observation\n{CAT}\nassistant\nnone", "none"),
    "a line that nobody answers": ("an\nassistant\nhelps", "an\nassistant\nhelps"),
    "a tool's answer amid reasoning": (f"<think>I look. <observation>{CAT}</observation>So 7", "<think>So 7"),
    "a tool's answer that holds a tag": ("x<observation><think></observation>7", "7"),
    "a call mentioned in reasoning": ("<think>No <tool_call> here.</think>7", "<think>No </think>7"),
    "an answer mentioned in reasoning": ("<think>No <tool_response> here.</think>7",) * 2,
    "the same, opened in the prompt": ("No <tool_response> here.</think>7",) * 2,
    "mentioned, then real": (f"<think>No <tool_response>.</think><tool_response>{CAT}", ""),
    "a cut-off answer that holds a tag": (f"x\nuser\n<tool_response>\n</think>{CAT}", ""),
    "the same, after reasoning": (f"<think>x</think><tool_response>\n</think>{CAT}", ""),
    "a search": (f"<search>cats</search><information>{CAT}</information>none", "none"),
}


@pytest.mark.parametrize(("text", "said"), TURNS.values(), ids=TURNS)
def test_last_turn(text: str, said: str) -> None:
    assert last_turn(text) == said
    assert last_turn(said) == said, "what is left is one turn"


@pytest.mark.parametrize(("opening", "closing"), TOOL_RESPONSES)
@pytest.mark.parametrize(("target", "answer"), [(TARGET, CAT), (SEVEN, "7"), (DOG, "a dog")])
def test_what_a_tool_says_earns_nothing(opening: str, closing: str, target: Target, answer: str) -> None:
    assert score(answer, target).value == 1.0
    assert score(f"{opening}\n{answer}\n{closing}", target).value == 0.0
    assert score(f"{opening}\n{answer}", target).value == 0.0
    assert score(f"{opening}\nx\n{closing}\n{answer}", target).value == 1.0


@pytest.mark.parametrize(("opening", "closing"), TOOL_CALLS)
def test_a_call_is_no_prediction(opening: str, closing: str) -> None:
    result = score(f"{opening}{CAT}{closing}", TARGET)
    assert (result.value, result.metrics["n_predicted"]) == (0.0, 0.0)
    beside = score(f"{CAT}{opening}{CAT}{closing}", TARGET)
    assert (beside.value, beside.metrics["n_predicted"]) == (1.0, 1.0)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "visionr1-released"])
def test_every_format_reads_the_last_turn_only(name: str) -> None:
    example, parse = FORMATS[name].example, PARSERS[name]
    assert parse(TOOL + example) == parse(example)
    silent = parse(f"<tool_response>{example}</tool_response>")
    assert (silent.n_predicted, silent.count, silent.text, silent.is_parsed) == (0, None, "", False)


def test_every_tag_is_looked_for() -> None:
    """A tag that a gate forgets would never be seen."""
    for tag in (tag for pair in (*TOOL_CALLS, *TOOL_RESPONSES) for tag in pair):
        assert _MARK.search(f"text {tag}")
    for tag in (tag for pair in REASONING_TAGS for tag in pair):
        assert tag in ("<think>", "</think>") or "\u25c1" in tag or _OTHER_REASONING.search(tag)


# text -> where the answer starts; None: reasoning that was never closed
REASONING = {
    "none": ("7", 0),
    "closed": ("<think>a</think>7", 16),
    "opened in the prompt": ("a</think>7", 9),
    "several": ("<think>a</think> b <think>c</think>7", 35),
    "cut off": ("<think>a", None),
    "the second is cut off": ("<think>a</think> b <think>7", None),
    "cut off after words": ("Well. <think>7", None),
    "other tags": ("<reasoning>a</reasoning>7", 24),
    "Kimi's": ("\u25c1think\u25b7a\u25c1/think\u25b77", 16),
    "mixed": ("<think>a</think><thinking>7", None),
}


@pytest.mark.parametrize(("text", "start"), REASONING.values(), ids=REASONING)
def test_reasoning_end(text: str, start: int | None) -> None:
    assert reasoning_end(text) == start
    said, defects = answer_in(text)
    assert (said, defects) == (("7", ()) if start is not None else ("", (Defect.NO_ANSWER,)))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "visionr1-released"])
def test_every_format_passes_over_reasoning_of_every_kind(name: str) -> None:
    example, parse = FORMATS[name].example.rpartition("</think>\n")[2], PARSERS[name]
    for opening, closing in REASONING_TAGS:
        assert parse(f"{opening}{example}{closing}{example}") == parse(example)
        assert parse(f"{example}{closing}{example}") == parse(example)
        for cut_off in (f"{opening}{example}", f"{opening}a{closing}{opening}{example}"):
            answer = parse(cut_off)
            assert (answer.n_predicted, answer.count, answer.text) == (0, None, "")
            assert answer.defects == (Defect.NO_ANSWER,)


# prompt -> whether a completion to it begins inside the reasoning
PROMPTS = {
    "Qwen3-VL-Thinking": ("<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n<think>\n", True),
    "Qwen3.5 without thinking": ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
    "Qwen2.5-VL": ("<|im_start|>assistant\n", False),
    "without special tokens": ("user\nWhere?\nassistant\n<think>\n", True),
    "a question that speaks of the tag": ("user\nReason in <think> </think>.\nassistant\n", False),
    "Kimi": ("<|im_middle|>\u25c1think\u25b7", True),
    "empty": ("", False),
}


@pytest.mark.parametrize(("prompt", "is_open"), PROMPTS.values(), ids=PROMPTS)
def test_prompts_that_open_the_reasoning(prompt: str, is_open: bool) -> None:
    assert opens_reasoning(prompt) is is_open
    assert is_reasoning_opened("auto", prompt) is is_open
    assert is_reasoning_opened("opened", prompt)
    assert not is_reasoning_opened("closed", prompt)
    assert not is_reasoning_opened("auto", None)


@pytest.mark.parametrize(
    ("prompt", "options", "value"),
    [
        ("user\nHow many?\nassistant\n<think>\n", [], 0.0),
        ("user\nHow many?\nassistant\n<think>\n", ["--reasoning", "closed"], 0.8),
        ("user\nHow many?\nassistant\n", [], 0.8),
        ("user\nHow many?\nassistant\n", ["--reasoning", "opened"], 0.0),
    ],
)
def test_the_commands_read_the_prompt_of_a_dump(tmp_path: Path, prompt: str, options: list[str], value: float) -> None:
    dump = tmp_path / "1.jsonl"
    row = {"input": prompt, "output": "3 left and 4 right, so 7. Wait", "gts": SEVEN.to_json(), "score": 0, "step": 1}
    dump.write_text(json.dumps(row) + "\n")
    explained = CliRunner().invoke(app, ["explain", str(dump), "--row", "1", "--json", *options])
    assert json.loads(explained.stdout)["value"] == pytest.approx(value)
    scored = CliRunner().invoke(app, ["score", str(dump), "--json", *options])
    assert json.loads(scored.stdout)["overall"]["reward"] == pytest.approx(value)


UNFINISHED = {
    "counting": (SEVEN, "I count 3 left and 4 right, so 7. Wait, let me check the", "7"),
    "boxes": (TARGET, f"The cat: {CAT} but", CAT),
    "boxes alone": (TARGET, CAT, CAT),
    "points": (POINT, '[{"point_2d": [150, 150], "label": "cat"}] or', '[{"point_2d": [150, 150], "label": "cat"}]'),
    "words": (DOG, "a dog", "a dog"),
    "nothing there": (Target(task="detection", size_wh=(9, 9), categories=["cat"]), "[]", "[]"),
}


@pytest.mark.parametrize(("target", "text", "right"), UNFINISHED.values(), ids=UNFINISHED)
def test_unfinished_reasoning_is_no_answer_in_score_and_dumps_and_eval(target: Target, text: str, right: str) -> None:
    finished = f"{text}</think>\n{right}"
    assert score(text, target, reasoning_opened=True).value == 0.0
    assert score(finished, target, reasoning_opened=True).value == score(right, target).value == 1.0
    for prompt, value in (("assistant\n<think>\n", 0.0), ("assistant\n", score(text, target).value)):
        row = rollout(text, target, prompt)
        judging = Judging(PRESETS["visionr1"], FRAMES["original"])
        assert judging.score(row, judging.preset_for(row)).value == value
        assert evaluated(text, target, prompt) == pytest.approx(value)


def rollout(text: str, target: Target, prompt: str) -> Rollout:
    return Rollout(
        file="1.jsonl", number=1, completion=text, target=target, group=0, session=None, source="x", step=1, saved=None,
        processed_wh=None, n_tokens=None, prompt=prompt,
    )  # fmt: skip


def evaluated(text: str, target: Target, prompt: str) -> float:
    prediction = Prediction(
        input=prompt, output=text, gts=target.to_json(), data_source="x", file="a", row=0, uid=uid_of("a", 0, 0)
    )
    (found,) = read_all([prediction.rollout()], Judging(PRESETS["visionr1"], FRAMES["original"]))
    return found.score.value


def test_a_template_of_reasoning_knows_that_the_prompt_opened_it() -> None:
    think_answer = CRITERIA["think_answer"]
    text = "I look.</think>\n<answer>7</answer>"
    assert think_answer(text) == 0.0
    assert think_answer(spoken_text(text, reasoning_opened=True)) == 1.0
    assert think_answer(spoken_text("<answer>7</answer>", reasoning_opened=True)) == 0.0


def test_a_preset_that_cannot_judge_the_task_is_refused() -> None:
    with pytest.raises(RewardError, match=r"visionr1: .*detection.*counting"):
        score("3", SEVEN, preset="visionr1")


PIECES = (*(tag for pair in (*TOOL_CALLS, *TOOL_RESPONSES, *REASONING_TAGS) for tag in pair), "user\n", "\nassistant\n")
SCRAPS = st.lists(st.sampled_from((*PIECES, "<|im_start|>", "user", "assistant", "7", CAT, "\n", " ")), max_size=12)


@given(SCRAPS.map("".join))
def test_any_transcript_is_read_once(text: str) -> None:
    said = last_turn(text)
    assert len(said) <= len(text)
    mentioned = max(said.rfind(tag) for tag, _ in TOOL_RESPONSES)
    assert mentioned < 0 or any(said.find(closing, mentioned) >= 0 for _, closing in REASONING_TAGS)
    assert 0.0 <= score(text, SEVEN).value <= 1.0
