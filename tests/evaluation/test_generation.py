"""What `visionr1 eval` does around vLLM: models found, prompts built, answers kept, and a killed run that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from verl_visionr1 import Target
from verl_visionr1.evaluation.generation import checkpoints
from verl_visionr1.evaluation.generation.answering import Progress, answer_rows
from verl_visionr1.evaluation.generation.checkpoints import ModelError, actor_of, find_model, merged
from verl_visionr1.evaluation.generation.prompts import Asked, Question, asked_rows, count_rows, messages_of
from verl_visionr1.evaluation.generation.records import (
    Made,
    PredictionFile,
    Sampling,
    data_fingerprints,
    fingerprint,
    refuse_others,
)
from verl_visionr1.evaluation.generation.tokens import token_starts
from verl_visionr1.evaluation.predictions import Prediction, encode, read_predictions, uid_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rollouts.records import OnError, read_rollouts

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes"
TRUTH = Target(task="grounding", size_wh=(64, 48), boxes_xyxy=[[4, 4, 20, 20]], labels=["cat"]).to_json()


def prediction(row: int = 0, sample: int = 0, file: str = "val.parquet", output: str = "[]") -> Prediction:
    return Prediction(
        input="Where?",
        output=output,
        gts=TRUTH,
        data_source="toy",
        file=file,
        row=row,
        sample=sample,
        uid=uid_of(file, row, sample),
        n_tokens=3,
    )


def made(**changes: Any) -> Made:
    plain = Made(
        model="run",
        model_type="qwen3_vl",
        weights="w1",
        sampling=Sampling(),
        data={"val.parquet": "d1"},
        device="cpu",
        versions={"vllm": "0.24.0"},
    )
    return msgspec.structs.replace(plain, **changes)


# ------------------------------------------------------------------------------------------------ starts of tokens

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


# ---------------------------------------------------------------------------------------- what answers were made with


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "w2", "model": "other"}, "of run as it was then, not of other as it is now"),
        ({"sampling": Sampling(temperature=0.7)}, "made with temperature = 0.0, not 0.7"),
        ({"sampling": Sampling(max_tokens=80)}, "made with max_tokens = 1024, not 80"),
        ({"min_pixels": 3136}, "made with min_pixels = None, not 3136"),
        ({"data": {"val.parquet": "d2"}}, "data val.parquet"),
        ({"data": {"val.parquet": "d1", "more.parquet": "d3"}}, "data more.parquet"),
        ({"versions": {"vllm": "0.25.0"}}, "versions vllm = 0.24.0, not 0.25.0"),
        ({"device": "cuda"}, "device = cpu, not cuda"),
        ({"logprobs": True}, "without the probabilities"),
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
    with pytest.raises(RowsError, match="is not what visionr1 eval wrote"), PredictionFile(tmp_path, made()):
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


# ------------------------------------------------------------------------------------------------ rows asked


def row_of(number: int, images: object = ("cat.png",), prompt: str = "<image>Where?", truth: object = TRUTH) -> Any:
    return {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": prompt}],
        "images": images,
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"index": number, "image_id": str(number)},
    }


def test_images_stand_where_the_prompt_says() -> None:
    data = (TINY.parent / "README.md").read_bytes()
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
    with pytest.raises(RowError, match="here: 1 times <image> in its prompt, and 2 images"):
        messages_of(row_of(0, ["a.png", "b.png"]), "here")
    with pytest.raises(RowError, match="here: 2 times <image> in its prompt, and 1 images"):
        messages_of(row_of(0, ["a.png"], "<image><image>"), "here")
    with pytest.raises(RowError, match="is no list of turns"):
        messages_of(row_of(0) | {"prompt": "Where?"}, "here")
    assert data


def write_rows(path: Path, rows: list[Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_first_rows_of_each_file(tmp_path: Path) -> None:
    files = [write_rows(tmp_path / f"{name}.parquet", [row_of(i) for i in range(3)]) for name in "ab"]
    assert [asked.key for asked in asked_rows(files, 2)] == [
        ("a.parquet", 0),
        ("a.parquet", 1),
        ("b.parquet", 0),
        ("b.parquet", 1),
    ]
    assert (count_rows(files), count_rows(files, 2), count_rows(files, 7)) == (6, 4, 6)


@dataclass
class Scripted:
    """Answers each question with its row's number; sees which rows were asked together."""

    n: int = 1
    fits: Callable[[int], bool] = lambda row: True
    batches: list[list[int]] = field(default_factory=list)

    def fitting(self, question: Question) -> Question:
        if not self.fits(question.prediction.row):
            raise RowError("long prompt", f"row {question.prediction.row}: too long")
        return question

    def answers(self, questions: Sequence[Question]) -> list[Prediction]:
        self.batches.append([question.prediction.row for question in questions])
        return [
            msgspec.structs.replace(question.prediction, sample=sample, output=str(question.prediction.row))
            for question in questions
            for sample in range(self.n)
        ]


def question_of(asked: Asked) -> Question:
    if asked.columns["images"] is None:
        raise RowError("image", f"{asked.where}: its image cannot be loaded")
    return Question(prediction(asked.number, file=asked.file.name), [1], [], 1)


def rows_of(n: int, bad: Sequence[int] = ()) -> Iterator[Asked]:
    return (Asked(Path("d/val.parquet"), i, row_of(i, None if i in bad else ("a.png",))) for i in range(n))


def run(folder: Path, answerer: Scripted, rows: Iterator[Asked], batch: int, on_error: OnError = "fail") -> Progress:
    progress = Progress(10)
    with PredictionFile(folder, made()) as out:
        answer_rows(rows, question_of, lambda: answerer, out, progress, batch=batch, on_error=on_error)
    return progress


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
from test_generation import Scripted, run, rows_of
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


# ------------------------------------------------------------------------------------------------ read as rollouts


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


# ------------------------------------------------------------------------------------------------ models


def checkpoint(run_dir: Path, step: int = 2, size: int = 1, written: int | None = None) -> Path:
    """A checkpoint as verl leaves it (the shards hold nothing)."""
    actor = run_dir / "checkpoints" / f"global_step_{step}" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    for rank in range(size):
        (actor / f"model_world_size_{size}_rank_{rank}.pt").write_bytes(b"weights")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": size}))
    (actor / "huggingface" / "config.json").write_text('{"model_type": "qwen3_vl"}')
    tracker = run_dir / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.write_text(str(step if written is None else written))
    return actor


@pytest.mark.parametrize(
    "given_as", ["", "checkpoints", "checkpoints/global_step_2", "checkpoints/global_step_2/actor"]
)
def test_a_checkpoint_is_known_by_any_of_its_folders(tmp_path: Path, given_as: str) -> None:
    actor = checkpoint(tmp_path, size=2)
    assert actor_of(tmp_path / given_as) == actor
    assert actor_of(actor / "huggingface") == actor, "it holds a config and no weights"


def test_the_last_whole_step_is_taken(tmp_path: Path) -> None:
    first = checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 10)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")  # step 10 is being written
    assert actor_of(tmp_path) == first
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("4")
    with pytest.raises(ModelError, match=r"names step 4, whose folder is gone \(there: .*_2, .*_10\)"):
        actor_of(tmp_path)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").unlink()
    with pytest.raises(ModelError, match="give one of its global_step_N"):
        actor_of(tmp_path / "checkpoints")


def lose_shard(actor: Path) -> None:
    (actor / "model_world_size_2_rank_1.pt").unlink()


def lose_all_shards(actor: Path) -> None:
    for rank in range(2):
        (actor / f"model_world_size_2_rank_{rank}.pt").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose_shard, r"model_world_size_2_rank_1\.pt is missing \(1 of 2\)"),
        (lose_all_shards, "save_contents left it out"),
        (lambda actor: (actor / "fsdp_config.json").unlink(), "tells its world_size"),
        (lambda actor: (actor / "fsdp_config.json").write_text("[]"), "tells its world_size"),
        (lambda actor: (actor / "huggingface" / "config.json").unlink(), r"no huggingface/config\.json"),
        (lambda actor: (actor / "model" / "dist_ckpt").mkdir(parents=True), "merge --backend megatron --local_dir"),
        (lambda actor: actor.rename(actor.with_name("critic")), "was not written to its end"),
    ],
)
def test_checkpoints_that_are_not_whole(tmp_path: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(checkpoint(tmp_path, size=2))
    with pytest.raises(ModelError, match=said) as caught:
        find_model(str(tmp_path / "checkpoints" / "global_step_2"), tmp_path / "out")
    assert "\n" not in str(caught.value)


def hugging_face(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model")
    model = find_model(str(folder), tmp_path / "out")
    assert (model.folder, model.model_type) == (folder, "qwen2_5_vl")
    assert find_model(str(hugging_face(tmp_path / "copy")), tmp_path / "out").weights == model.weights
    assert find_model(str(hugging_face(tmp_path / "other", b"weightz")), tmp_path / "out").weights != model.weights


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in it"),
        (lambda folder: (folder / "config.json").unlink(), "neither a Hugging Face model"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "is no JSON object"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is a LoRA adapter"),
    ],
)
def test_folders_that_are_no_model(tmp_path: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(hugging_face(tmp_path / "model"))
    with pytest.raises(ModelError, match=said):
        find_model(str(tmp_path / "model"), tmp_path / "out")


@pytest.mark.parametrize("name", ["./gone", "/gone/too", "gone", "a/b/c"])
def test_names_that_are_no_model(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        find_model(name, tmp_path)


def test_a_merge_is_made_once_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = checkpoint(tmp_path)
    calls: list[str] = []

    def merge(source: Path, target: Path) -> None:
        assert not target.exists(), "what a killed merge left is gone"
        hugging_face(target, b"merged " + (source / "model_world_size_1_rank_0.pt").read_bytes())
        calls.append(target.name)

    def breaks(source: Path, target: Path) -> None:
        hugging_face(target)
        raise ModelError("out of memory")

    monkeypatch.setattr(checkpoints, "_merge", breaks)
    with pytest.raises(ModelError, match="out of memory"):
        merged(actor, tmp_path / "out")
    assert not list(actor.glob("*merged*/*")), "nothing of it is left"

    monkeypatch.setattr(checkpoints, "_merge", merge)
    hugging_face(actor / "merged", b"half of it")  # by hand, or by a program that was killed: nothing vouches for it
    hugging_face(actor / ".merged.partial", b"half of it")
    folder = merged(actor, tmp_path / "out")
    assert folder == actor / "merged"
    assert (folder / "model.safetensors").read_bytes() == b"merged weights"
    assert merged(actor, tmp_path / "out") == folder
    assert len(calls) == 1, "a whole one is used again"

    (actor / "model_world_size_1_rank_0.pt").write_bytes(b"of a later run into the same folder")
    merged(actor, tmp_path / "out")
    assert (folder / "model.safetensors").read_bytes() == b"merged of a later run into the same folder"


def test_a_checkpoint_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = checkpoint(tmp_path)
    monkeypatch.setattr(checkpoints, "_merge", lambda source, target: hugging_face(target))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert merged(actor, tmp_path / "out") == tmp_path / "out" / "merged"
    assert not (actor / "merged").exists()


def test_the_reason_of_a_failed_merge_is_told(tmp_path: Path) -> None:
    """A real child process that fails."""
    with pytest.raises(ModelError, match=r"here: it failed: .*no_such_module"):
        checkpoints._run(("no_such_module",), "here: it failed")


# ------------------------------------------------------------------------------------------------ beside verl's own


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
    with pytest.raises(RowError, match=r"v\.parquet: row 3: reward_model\.ground truth is null"):
        prompts.question(Asked(Path("v.parquet"), 3, row_of(3, [str(picture)], truth=None)))
    many = row_of(3, [str(picture)] * 9, "<image>" * 9)
    with pytest.raises(RowError, match="9 images; at most 8"):
        prompts.question(Asked(Path("v.parquet"), 3, many))


def test_an_adapter_of_unknown_scale_is_refused(tmp_path: Path) -> None:
    """verl's merger writes alpha 0 where the checkpoint does not say it: peft would fuse nothing, and say nothing."""
    (tmp_path / "lora_adapter").mkdir()
    (tmp_path / "lora_adapter" / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 0}')
    with pytest.raises(ModelError, match=r"here: .* no lora_train_meta\.json with lora_alpha"):
        checkpoints._run((checkpoints._FUSE, str(tmp_path)), "here")


@pytest.mark.verl
@pytest.mark.slow
def test_a_lora_checkpoint_is_merged_and_fused(tmp_path: Path) -> None:
    """verl's merger and peft, on a checkpoint as verl's FSDP trainer writes it with LoRA: W + alpha / r * B A."""
    import shutil

    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    actor = checkpoint(tmp_path)
    shutil.rmtree(actor / "huggingface")
    shutil.copytree(TINY, actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    base = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    model: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    state = model.state_dict()
    for name in state:
        if "lora_B" in name:
            state[name].normal_(std=0.05)  # 0 at the start of training: without effect
    torch.save(dict(state), actor / "model_world_size_1_rank_0.pt")
    (actor / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "task_type": None}))
    folder = merged(actor, tmp_path / "out")
    assert not (folder / "lora_adapter").exists()
    before, after = load_file(TINY / "model.safetensors"), load_file(folder / "model.safetensors")
    assert after.keys() == before.keys()
    n_changed = 0
    for name, weight in before.items():
        expected = weight.to(torch.bfloat16).float()
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.default.weight" in state:
            b, a = (state[f"{key}.lora_{which}.default.weight"].to(torch.bfloat16).float() for which in "BA")
            expected, n_changed = expected + 2.0 * b @ a, n_changed + 1
            assert not torch.equal(after[name].float(), weight.to(torch.bfloat16).float())
        torch.testing.assert_close(after[name].float(), expected, atol=2e-3, rtol=1e-2)
    assert n_changed == 6, "two layers of each of three blocks"
