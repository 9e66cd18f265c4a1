"""`visionr1 difficulty`: the row of each rollout is found again, or is said not to be."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from difficulty_data import box_row, count_row, filtered_by, rates_of, rollouts_of, write_data, write_dump
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1.rollouts import finding
from verl_visionr1.rollouts.finding import Finder
from verl_visionr1.rollouts.records import read_rollouts
from verl_visionr1.rollouts.training_rows import bare, read_training_rows
from verl_visionr1.rows import read_rows
from verl_visionr1.tools.difficulty.filtering import COLUMNS

ROOT = Path(__file__).parents[2]


def test_rows_of_one_truth_are_told_apart_by_their_question(tmp_path: Path) -> None:
    questions = ["How many cats?", "How many cats? Or dogs?", "How  many\ndogs?", "How many"]
    rows = [count_row(question=question, image=str(i)) for i, question in enumerate(questions)]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    for i, row in enumerate(rows):  # one question holds another: the longest that the prompt holds is meant
        rates, shown = rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts_of(row, i, 4)))
        assert shown == [f"{i}/4" if j == i else None for j in range(len(rows))]
        assert rates.fates["ambiguous"] == 0


def test_what_the_dump_does_not_tell_is_ambiguous_and_nobodys(tmp_path: Path) -> None:
    twins = [count_row(image=image) for image in "abc"]
    rows = [twins[0], count_row(2), *twins[1:]]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(twins[0], 4, 4), *rollouts_of(rows[1], 2, 4)])
    report = filtered_by(dump, [file])
    assert (report.rollouts["found"], report.rollouts["ambiguous"]) == (4, 4)
    assert (report.rows["rated"], report.rows["ambiguous"], report.rows["not_in_dump"]) == (1, 3, 0)
    unseen, unclear = report.notes
    assert unseen.startswith("3 of 4 selected rows")
    assert f"{file}: row 0 and {file}: row 2;" in unclear


def test_rows_that_never_pass_are_suspicious(tmp_path: Path) -> None:
    """The frame may be wrong, or the ground truth."""
    rows = [count_row(i) for i in range(12)]
    file = write_data(tmp_path / "d.parquet", rows)
    dump = write_dump(tmp_path / "1.jsonl", [one for row in rows for one in rollouts_of(row, 0, 4)])
    (note,) = filtered_by(dump, [file]).notes
    assert note.startswith("100% of 12 rows never pass; check --frame")
    dump = write_dump(tmp_path / "1.jsonl", [one for row in rows for one in rollouts_of(row, 1, 4)])
    assert filtered_by(dump, [file]).notes == []


@pytest.mark.parametrize("embed", [False, True])
def test_rows_that_are_the_same_share_their_rate(embed: bool, tmp_path: Path) -> None:
    images: list[Any] = [b"one", b"one", b"two"] if embed else ["one", "one", "two"]
    rows = [count_row(1, image=images[0]), count_row(1, image=images[1]), count_row(2, image=images[2])]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    rates, shown = rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts_of(rows[0], 3, 4)))
    assert shown == ["3/4", "3/4", None]
    assert rates.fates["ambiguous"] == 0
    others = [
        replace(row, image=count_row(image=image).image) for row, image in zip(rows, images[1:] * 2, strict=False)
    ]
    data = read_training_rows([write_data(tmp_path / "e.parquet", others)])
    rates, shown = rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts_of(rows[0], 3, 4)))
    assert rates.fates["ambiguous"] == 4


def test_another_question_is_another_row(tmp_path: Path) -> None:
    rows = [count_row(1), count_row(2)]
    file = write_data(tmp_path / "d.parquet", rows)
    others = rollouts_of(count_row(1, "How many dogs?"), 4, 4)
    dump = write_dump(tmp_path / "1.jsonl", [*rollouts_of(rows[1], 1, 4), *others])
    report = filtered_by(dump, [file])
    assert (report.rollouts["found"], report.rollouts["other_question"], report.rows["rated"]) == (4, 4, 1)
    assert "--match truth" in report.notes[0]
    report = filtered_by(dump, [file], match="truth")
    assert (report.rollouts["found"], report.rollouts["other_question"], report.rows["rated"]) == (8, 0, 2)


def test_a_truth_that_the_data_do_not_have(tmp_path: Path) -> None:
    file = write_data(tmp_path / "d.parquet", [count_row(1)])
    rollouts = [*rollouts_of(count_row(1), 4, 4), *rollouts_of(count_row(7), 4, 4)]
    report = filtered_by(write_dump(tmp_path / "1.jsonl", rollouts), [file])
    assert (report.rollouts["found"], report.rollouts["not_in_data"]) == (4, 4)
    (note,) = report.notes
    assert note.startswith("4 rollouts have a ground truth that is not in ")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, [None, None]),
        ({"extra_info": {"index": "B"}}, [None, "4/4"]),
        ({"extra_info": {"index": 3}}, [None, None]),
        ({"images": ["/images/b.png"]}, [None, "4/4"]),
        ({"image": "images/b.png"}, [None, "4/4"]),
        ({"images": ["/elsewhere/b.png"]}, [None, None]),
        ({"images": [{"bytes": None, "path": "/images/b.png"}]}, [None, "4/4"]),
        ({"images": [{"image": 3}]}, [None, None]),
    ],
    ids=["nothing", "index", "index of no row", "image", "end of a path", "image of no row", "struct", "no image"],
)
def test_tables_of_ones_own_tell_more(told: dict[str, Any], expected: list[str | None], tmp_path: Path) -> None:
    rows = [count_row(image="a"), count_row(image="b")]
    file = write_data(tmp_path / "d.parquet", rows)
    if told.get("extra_info") == {"index": "B"}:
        told = {"extra_info": {"index": [row["extra_info"]["index"] for row in read_rows(file)][1]}}
    dump = write_dump(tmp_path / "1.jsonl", [one | told for one in rollouts_of(rows[0], 4, 4)])
    assert rates_of(read_training_rows([file]), dump)[1] == expected


def test_answers_beside_the_columns_trained_on(tmp_path: Path) -> None:
    """The training file itself, each row as often as it was sampled, with a column more."""
    file = write_data(tmp_path / "d.parquet", [count_row(image=b"a"), count_row(image=b"b"), count_row(2, image=b"b")])
    table = pq.read_table(file)
    sampled = table.take([1, 1, 2, 2]).append_column("response", pa.array(["1", "2", "2", "2"]))
    for columns in (sampled.column_names, ["images", "prompt", "reward_model", "response"]):
        pq.write_table(sampled.select(columns), tmp_path / "own.parquet")
        assert rates_of(read_training_rows([file]), tmp_path / "own.parquet")[1] == [None, "1/2", "2/2"]


def test_a_conversation_is_found_by_all_its_turns(tmp_path: Path) -> None:
    file = write_data(tmp_path / "d.parquet", [count_row(image="a"), count_row(image="b")])
    table = pq.read_table(file)
    rows = table.to_pylist()
    for row, said in zip(rows, ("Be brief.", "Be kind."), strict=True):
        row["prompt"] = [{"role": "system", "content": said}, *row["prompt"]]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    one = rollouts_of(count_row(), 3, 4)
    dump = write_dump(tmp_path / "1.jsonl", [o | {"input": f"system\nBe kind.\n{o['input']}"} for o in one])
    assert rates_of(read_training_rows([file]), dump)[1] == [None, "3/4"]


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "cat", " ", "\n", "<image>", "use", "?"]), max_size=6)


@given(st.lists(WORDS.map("".join), min_size=1, max_size=60, unique_by=bare), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_a_prompt_is_always_its_own_rows(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], chance: random.Random
) -> None:
    """Few questions of one truth are looked for one by one, many by the template: both find the same row."""
    texts = [f"{text.replace('<image>', '')} {i % 2}" for i, text in enumerate(texts)]
    texts = list({bare(text): text for text in texts}.values())
    folder = tmp_path_factory.mktemp("data")
    rows = [count_row(question=text, image=str(i)) for i, text in enumerate(texts)]
    data = read_training_rows([write_data(folder / "d.parquet", rows)])
    chance.shuffle(order := list(range(len(rows))))
    dump = write_dump(folder / "1.jsonl", [one for i in order for one in rollouts_of(rows[i], i % 3, 2, uid=f"u{i}")])
    whole = rates_of(data, dump)[1]
    assert whole == [f"{min(i % 3, 2)}/2" for i in range(len(rows))]
    limit, finding._FEW = finding._FEW, 0
    try:
        assert rates_of(data, dump)[1] == whole
    finally:
        finding._FEW = limit


def test_many_questions_of_one_truth_are_found_fast(tmp_path: Path) -> None:
    rows = [count_row(question=f"How many of kind {i}?", image=str(i)) for i in range(3000)]
    finder = Finder(read_training_rows([write_data(tmp_path / "d.parquet", rows)]))
    looked_at = Counter[str]()
    holds = finder._holds
    finder._holds = lambda prompt, question: looked_at.update("x") or holds(prompt, question)  # type: ignore[method-assign]
    dump = write_dump(tmp_path / "1.jsonl", [one for row in rows[:200] for one in rollouts_of(row, 1, 1)])
    found = [finder.prompts_of(rollout) for rollout in read_rollouts([dump], columns=COLUMNS)]
    assert len({prompts for prompts in found if prompts and len(prompts) == 1}) == 200
    assert looked_at["x"] == 3000, "all of them for the first prompt, none for the others"


@pytest.mark.verl
def test_a_prompt_that_went_through_a_tokenizer(tmp_path: Path) -> None:
    """What verl decodes is what the chat template made of the row's prompt, without special tokens."""
    jinja2 = pytest.importorskip("jinja2")
    tokenizers = pytest.importorskip("tokenizers")
    model = ROOT / "recipes/tiny/qwen3_vl_scenes"
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    template = jinja2.Template((model / "chat_template.jinja").read_text())
    asked = [
        'Locate "red box".\nJSON: [{"bbox_2d": [x1, y1, x2, y2]}]',
        "How many <|box_start|>cats<|box_end|>?",
        "How",
    ]
    rows = [count_row(question=question, image=str(i)) for i, question in enumerate(asked)]
    data = read_training_rows([write_data(tmp_path / "d.parquet", rows)])
    rollouts: list[dict[str, Any]] = []
    for row in rows:
        content = [{"type": "image"}, {"type": "text", "text": row.question}]
        text = template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
        said = tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True)
        rollouts += [one | {"input": said} for one in rollouts_of(row, 1, 2)]
    assert rates_of(data, write_dump(tmp_path / "1.jsonl", rollouts))[1] == ["1/2"] * 3


def test_a_truth_written_another_way_is_the_same(tmp_path: Path) -> None:
    row = box_row(5)
    data = read_training_rows([write_data(tmp_path / "d.parquet", [row])])
    loose = json.dumps(json.loads(row.target.to_json()), indent=1).replace("100.0", "100")
    dump = write_dump(tmp_path / "1.jsonl", [one | {"gts": loose} for one in rollouts_of(row, 2, 2)])
    assert rates_of(data, dump)[1] == ["2/2"]
