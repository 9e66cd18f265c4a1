"""Predictions, rows that are asked, and an answerer that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1 import Target
from verl_visionr1.evaluation.generation.answering import Progress, answer_rows
from verl_visionr1.evaluation.generation.prompts import Asked, Question
from verl_visionr1.evaluation.generation.records import Made, Sampling, open_predictions
from verl_visionr1.evaluation.predictions import Prediction, uid_of
from verl_visionr1.files import RowError
from verl_visionr1.rollouts.records import OnError

ROOT = Path(__file__).parents[2]
TINY = ROOT / "recipes" / "tiny" / "qwen3_vl_scenes"
TRUTH = Target(task="grounding", size_wh=(64, 48), boxes_xyxy=[[4, 4, 20, 20]], labels=["cat"]).to_json()


def prediction(row: int = 0, sample: int = 0, file: str = "val.parquet", output: str = "[]") -> Prediction:
    said = {"input": "Where?", "output": output, "gts": TRUTH, "data_source": "toy", "n_tokens": 3}
    return Prediction(**said, file=file, row=row, sample=sample, uid=uid_of(file, row, sample))


def made(**changes: Any) -> Made:
    plain = {"model": "run", "model_type": "qwen3_vl", "weights": "w1", "sampling": Sampling(), "device": "cpu"}
    return Made(**{**plain, "data": {"val.parquet": "d1"}, "versions": {"vllm": "0.24.0"}, **changes})


def row_of(number: int, images: object = ("cat.png",), prompt: str = "<image>Where?", truth: object = TRUTH) -> Any:
    return {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": prompt}],
        "images": images,
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"index": number, "image_id": str(number)},
    }


def write_rows(path: Path, rows: list[Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


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


def run(
    folder: Path,
    start: Callable[[], Any],
    rows: Iterator[Asked],
    batch: int,
    on_error: OnError = "fail",
    question_of: Callable[[Asked], Question] = question_of,
) -> Progress:
    progress = Progress(10)
    with open_predictions(folder, made()) as out:
        answer_rows(rows, question_of, start, out, progress, batch=batch, on_error=on_error)
    return progress
