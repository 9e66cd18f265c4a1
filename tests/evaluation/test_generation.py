"""What `visionr1 eval` does around vLLM: rows asked in batches, answers kept, and a killed run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted, made, prediction, question_of, row_of, rows_of, run, write_rows

from verl_visionr1.evaluation.generation.answering import Progress, answer_rows
from verl_visionr1.evaluation.generation.prompts import Asked, Question, asked_rows, count_rows
from verl_visionr1.evaluation.generation.records import (
    PredictionFile,
    Sampling,
    data_fingerprints,
    fingerprint,
    refuse_others,
)
from verl_visionr1.evaluation.predictions import Prediction, encode, read_predictions
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rollouts.records import read_rollouts


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "w2", "model": "other"}, "of run with other weights, not of other"),
        ({"sampling": Sampling(temperature=0.7)}, "made with temperature = 0.0, not 0.7"),
        ({"sampling": Sampling(max_tokens=80)}, "made with max_tokens = 1024, not 80"),
        ({"min_pixels": 3136}, "made with min_pixels = None, not 3136"),
        ({"data": {"val.parquet": "d2"}}, "data val.parquet"),
        ({"data": {"val.parquet": "d1", "more.parquet": "d3"}}, "data more.parquet"),
        ({"versions": {"vllm": "0.25.0"}}, "versions vllm = 0.24.0, not 0.25.0"),
        ({"device": "cuda"}, "device = cpu, not cuda"),
        ({"logprobs": True}, "token probabilities"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with PredictionFile(tmp_path, made()) as file:
        file.append([prediction()])
    before = (tmp_path / "predictions.jsonl").read_bytes()
    with pytest.raises(RowsError, match="give another --out") as caught, PredictionFile(tmp_path, made(**changes)):
        pass
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


def test_what_does_not_change_answers_may_differ(tmp_path: Path) -> None:
    with PredictionFile(tmp_path, made(logprobs=True)):
        pass
    with PredictionFile(tmp_path, made(model="moved/run")) as file:
        assert file.made.logprobs, "answers go on with the probabilities that the first ones have"
    refuse_others(tmp_path, made(logprobs=True), made())


def test_predictions_of_unknown_making_are_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_bytes(encode([prediction()]))
    with pytest.raises(RowsError, match=r"no eval\.json beside it"), PredictionFile(tmp_path, made()):
        pass
    (tmp_path / "eval.json").write_text("{}")
    with pytest.raises(RowsError, match=r"eval\.json"), PredictionFile(tmp_path, made()):
        pass


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with PredictionFile(tmp_path, made()), pytest.raises(RowsError, match="another evaluation is writing there"):
        PredictionFile(tmp_path, made())
    with PredictionFile(tmp_path, made()):
        pass


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_what_a_kill_left_is_cut_to_whole_rows(tmp_path: Path, cut: int) -> None:
    """Two answers a row: a row with one of them is asked again, and so is one whose line was cut off."""
    settings = made(sampling=Sampling(n=2, temperature=1.0))
    with PredictionFile(tmp_path, settings) as file:
        file.append([prediction(row, sample) for row in (0, 3) for sample in (0, 1)])
    path = tmp_path / "predictions.jsonl"
    whole = path.read_bytes()
    half = encode([prediction(4, 0, output="é"), prediction(4, 1)])
    path.write_bytes(whole + half[: min(cut, len(encode([prediction(4, 0, output="é")])) + 7)])
    with PredictionFile(tmp_path, settings) as file:
        assert file.rows_done == {("val.parquet", 0), ("val.parquet", 3)}
        assert path.read_bytes() == whole
        file.append([prediction(4, 0), prediction(4, 1)])
    assert [each.key for each in read_predictions(path)] == [("val.parquet", r, s) for r in (0, 3, 4) for s in (0, 1)]


@given(st.integers(0, 2000))
def test_a_cut_anywhere_leaves_a_file_that_goes_on(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with PredictionFile(Path(folder), made()) as file:
            file.append([prediction(row, output="[é]" * row) for row in range(5)])
        path = Path(folder) / "predictions.jsonl"
        path.write_bytes(path.read_bytes()[:cut])
        with PredictionFile(Path(folder), made()) as file:
            missing = [row for row in range(5) if ("val.parquet", row) not in file.rows_done]
            file.append([prediction(row) for row in missing])
        assert [each.row for each in read_predictions(path)] == list(range(5))


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
    with pytest.raises(RowsError, match="cannot be read"):
        fingerprint([tmp_path / "gone"])


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "val.parquet").write_bytes(b"")
    with pytest.raises(RowsError, match=r"a second file called val\.parquet"):
        data_fingerprints([tmp_path / "a" / "val.parquet", tmp_path / "b" / "val.parquet"])


def test_first_rows_of_each_file(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / f"{name}.parquet", [row_of(i) for i in range(3)]) for name in "ab"]
    assert [asked.key for asked in asked_rows(files, 2)] == [(f"{name}.parquet", i) for name in "ab" for i in range(2)]
    assert (count_rows(files), count_rows(files, 2), count_rows(files, 7)) == (6, 4, 6)


def test_rows_are_asked_in_batches_and_once(tmp_path: Path) -> None:
    answerer = Scripted()
    progress = run(tmp_path, answerer, rows_of(7), 3)
    assert answerer.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert (progress.n_done, progress.n_tokens, progress.n_skipped) == (7, 21, 0)
    again = Scripted()
    assert run(tmp_path, again, rows_of(9), 3).n_done == 2
    assert again.batches == [[7, 8]]
    read = list(read_predictions(tmp_path / "predictions.jsonl"))
    assert [(each.row, each.output) for each in read] == [(i, str(i)) for i in range(9)]
    started: list[int] = []
    with PredictionFile(tmp_path, made()) as out:
        start: Any = lambda: started.append(1)  # noqa: E731
        answer_rows(rows_of(9), question_of, start, out, Progress(9), batch=3)
    assert not started, "nothing is left to ask: vLLM is not started"


def test_rows_that_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"d/val\.parquet: row 4: its image cannot be loaded"):
        run(tmp_path, Scripted(), rows_of(7, bad=[4]), 2)
    assert [each.row for each in read_predictions(tmp_path / "predictions.jsonl")] == [0, 1, 2, 3], "so far kept"
    answerer = Scripted(fits=lambda row: row != 5)
    progress = run(tmp_path, answerer, rows_of(8, bad=[4]), 2, "skip")
    assert answerer.batches == [[6], [7]], "a batch is filled up for rows that cannot be read, not for long ones"
    assert (progress.n_done, progress.n_skipped) == (2, 2)
    assert progress.examples == ["d/val.parquet: row 4: its image cannot be loaded", "row 5: too long"]


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

    with PredictionFile(tmp_path, made()) as out:
        answer_rows(rows_of(40), noted, Slow, out, Progress(40), batch=4)
    assert max(ahead) == 8


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from scripted import Scripted, run, rows_of
class Slow(Scripted):
    def answers(self, questions):
        time.sleep(0.05)
        return super().answers(questions)
run(Path(sys.argv[2]), Slow(), rows_of(400), 2)
"""


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """kill -9 while answers are written: none is lost, none is there twice."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)], env=os.environ
    )
    path = tmp_path / "predictions.jsonl"
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 2000):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n_before = len(list(read_predictions(path)))
    assert 0 < n_before < 400
    answerer = Scripted()
    run(tmp_path, answerer, rows_of(400), 50)
    assert sum(map(len, answerer.batches)) == 400 - n_before
    assert [each.row for each in read_predictions(path)] == list(range(400))


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
