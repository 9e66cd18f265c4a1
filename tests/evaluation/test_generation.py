"""What `visionr1 eval` does around vLLM: rows asked in batches, answers kept, and a killed run that goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import Scripted, made, prediction, question_of, row_of, rows_of, run, write_rows

from verl_visionr1.evaluation.generation.prompts import Asked, Question, asked_rows, count_rows
from verl_visionr1.evaluation.generation.records import Sampling, data_fingerprints, fingerprint, open_predictions
from verl_visionr1.evaluation.predictions import Prediction, encode, read_predictions
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rollouts.records import read_rollouts


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "w2", "model": "other"}, "weights = w1 (run), not w2 (other)"),
        ({"sampling": Sampling(temperature=0.7)}, "temperature = 0.0, not 0.7"),
        ({"sampling": Sampling(max_tokens=80)}, "max_tokens = 1024, not 80"),
        ({"min_pixels": 3136}, "made with min_pixels = None, not 3136"),
        ({"data": {"val.parquet": "d2"}}, "data val.parquet"),
        ({"data": {"val.parquet": "d1", "more.parquet": "d3"}}, "data more.parquet"),
        ({"versions": {"vllm": "0.25.0"}}, "versions vllm = 0.24.0, not 0.25.0"),
        ({"device": "cuda"}, "device = cpu, not cuda"),
        ({"logprobs": True}, "logprobs = False, not True"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with open_predictions(tmp_path, made()) as file:
        file.append([prediction()])
    before = (tmp_path / "predictions.jsonl").read_bytes()
    with pytest.raises(RowsError, match="give another --out") as caught, open_predictions(tmp_path, made(**changes)):
        pass
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def test_answers_go_on_with_the_probabilities_that_the_first_ones_have(tmp_path: Path) -> None:
    with open_predictions(tmp_path, made(logprobs=True)):
        pass
    with open_predictions(tmp_path, made(model="moved/run")) as file:
        assert file.made.logprobs


def test_predictions_of_unknown_making_are_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_bytes(encode([prediction()]))
    for _ in range(2):
        with pytest.raises(RowsError, match=r"eval\.json"), open_predictions(tmp_path, made()):
            pass
        (tmp_path / "eval.json").write_text("{}")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / "val.parquet", [row_of(0)])] * 2
    with pytest.raises(RowsError, match=r"a second file called val\.parquet"):
        data_fingerprints(files)


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with open_predictions(tmp_path, made()):
        other = open_predictions(tmp_path, made())
        with pytest.raises(RowsError, match="another evaluation is writing there"), other:
            pass
    with open_predictions(tmp_path, made()):
        pass


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_what_a_kill_left_is_cut_to_whole_rows(tmp_path: Path, cut: int) -> None:
    """Two answers per row: a row with one of them is asked again, and so is one whose line was cut off."""
    settings = made(sampling=Sampling(n=2, temperature=1.0))
    with open_predictions(tmp_path, settings) as file:
        file.append([prediction(row, sample) for row in (0, 3) for sample in (0, 1)])
    path = tmp_path / "predictions.jsonl"
    whole = path.read_bytes()
    half = encode([prediction(4, 0, output="é"), prediction(4, 1)])
    path.write_bytes(whole + half[: min(cut, len(encode([prediction(4, 0, output="é")])) + 7)])
    with open_predictions(tmp_path, settings) as file:
        assert file.rows_done == {("val.parquet", 0), ("val.parquet", 3)}
        assert path.read_bytes() == whole
        file.append([prediction(4, 0), prediction(4, 1)])
    assert [(each.file, each.row, each.sample) for each in read_predictions(path)] == [
        ("val.parquet", r, s) for r in (0, 3, 4) for s in (0, 1)
    ]


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1 << 22))
    before = fingerprint([weights])
    assert before == fingerprint([weights])
    for place in (0, (1 << 22) - 1):
        changed = bytearray(1 << 22)
        changed[place] = 1
        weights.write_bytes(changed)
        assert fingerprint([weights]) != before
    weights.write_bytes(bytes((1 << 22) + 1))
    assert fingerprint([weights]) != before
    with pytest.raises(RowsError, match="gone"):
        fingerprint([tmp_path / "gone"])


def test_first_rows_of_each_file(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / f"{name}.parquet", [row_of(i) for i in range(3)]) for name in "ab"]
    assert [asked.key for asked in asked_rows(files, 2)] == [(f"{name}.parquet", i) for name in "ab" for i in range(2)]
    assert (count_rows(files), count_rows(files, 2), count_rows(files, 7)) == (6, 4, 6)


def test_rows_are_asked_in_batches_and_once(tmp_path: Path) -> None:
    answerer = Scripted()
    progress = run(tmp_path, lambda: answerer, rows_of(7), 3)
    assert answerer.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert (progress.n_done, progress.skipped.n_skipped) == (7, 0)
    again = Scripted()
    assert run(tmp_path, lambda: again, rows_of(9), 3).n_done == 2
    assert again.batches == [[7, 8]]
    read = list(read_predictions(tmp_path / "predictions.jsonl"))
    assert [(each.row, each.output) for each in read] == [(i, str(i)) for i in range(9)]
    started: list[int] = []
    run(tmp_path, lambda: started.append(1), rows_of(9), 3)
    assert not started, "nothing is left to ask: vLLM is not started"


def test_rows_that_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"d/val\.parquet: row 4: its image cannot be loaded"):
        run(tmp_path, Scripted, rows_of(7, bad=[4]), 2)
    assert [each.row for each in read_predictions(tmp_path / "predictions.jsonl")] == [0, 1, 2, 3], "so far kept"
    answerer = Scripted(fits=lambda row: row != 5)
    progress = run(tmp_path, lambda: answerer, rows_of(8, bad=[4]), 2, "skip")
    assert answerer.batches == [[6], [7]], "a batch is filled up for rows that cannot be read, not for long ones"
    assert (progress.n_done, progress.skipped.n_skipped) == (2, 2)
    assert progress.skipped.examples == ["d/val.parquet: row 4: its image cannot be loaded", "row 5: too long"]


def test_at_most_two_batches_of_images_are_in_memory(tmp_path: Path) -> None:
    """The next batch is read while one is answered, and no more."""
    read: list[int] = []
    ahead: list[int] = []

    class Slow(Scripted):
        def answers(self, questions: Sequence[Question]) -> list[Prediction]:
            time.sleep(0.05)
            ahead.append(len(read) - questions[0].prediction.row)
            assert threading.current_thread() is threading.main_thread()
            return super().answers(questions)

    def noted(asked: Asked) -> Question:
        read.append(asked.number)
        return question_of(asked)

    run(tmp_path, Slow, rows_of(40), 4, question_of=noted)
    assert max(ahead) == 8


def test_predictions_are_rollouts_in_their_groups(tmp_path: Path) -> None:
    """A group is a row, whatever the file is called; its answers are none of them turns of another."""
    path = tmp_path / "predictions.jsonl"
    names = ("val.parquet", "my_val_0_1.parquet", "0_0_0.parquet")
    said = [prediction(row, sample, name) for name in names for row in (0, 7) for sample in range(3)]
    path.write_bytes(encode(said))
    rollouts = list(read_rollouts([path]))
    assert len(rollouts) == len(said), "none is taken for an earlier turn"
    groups: dict[Any, list[int]] = {}
    for i, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group, []).append(i)
    assert sorted(groups.values()) == [[i, i + 1, i + 2] for i in range(0, len(said), 3)]
    assert len({rollout.session for rollout in rollouts}) == len(said)
    assert {(rollout.source, rollout.n_tokens) for rollout in rollouts} == {("toy", 3)}
