"""A model's answers to the rows of parquet files: `predictions.jsonl`, lines with the columns of a rollout dump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.evaluation.settings import EvaluationError
from verl_visionr1.files import RowsError, reading
from verl_visionr1.rewards.routing import value_at
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.targets import TargetError, read_target


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer, as a line of the file.

    Attributes:
        input: the prompt, rendered by the model's chat template; output: without special tokens.
        gts: `Target.to_json()`.
        file, row, sample: name of the parquet file without its folder, its row and the row's answer, from 0.
        index, image_id, question: `extra_info` of the row; answers about one image form one image of COCO's AP.
        image: see `rollouts.records.image_name`: its path, or a digest if it is embedded.
        processed_wh: width and height in pixels of the image as the model saw it; None if unknown.
        n_tokens: length of the output in tokens, including the end-of-turn token.
        finish_reason: "stop", or "length" for an answer cut off by the token limit.
        starts: where each token starts in `output`, in characters, increasing; empty without probabilities.
        logprobs: natural log-probability of each of these tokens, before temperature.
    """

    input: str
    output: str
    gts: str
    data_source: str
    file: str
    row: int
    sample: int = 0
    uid: str
    index: int | None = None
    image_id: str | None = None
    question: str | None = None
    image: str | None = None
    processed_wh: tuple[int, int] | None = None
    n_tokens: int | None = None
    finish_reason: str = "stop"
    starts: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    def rollout(self) -> Rollout:
        """The answer as it is scored.

        Raises:
            EvaluationError: invalid ground truth; names file and row.
        """
        try:
            target = read_target(self.gts)
        except TargetError as error:
            raise EvaluationError(f"{self.file}: row {self.row}, sample {self.sample}: {error}") from None
        return Rollout(
            file=self.file,
            number=self.row,
            sample=self.sample,
            uid=self.uid,
            completion=self.output,
            target=target,
            source=self.data_source,
            prompt=self.input,
            image=self.image,
            image_id=self.image_id,
            processed_wh=self.processed_wh,
            n_tokens=self.n_tokens,
            finish_reason=self.finish_reason,
            starts=self.starts,
            logprobs=self.logprobs,
        )


def uid_of(file: str, row: int, sample: int) -> str:
    """The uid of an answer, in verl's form.

    >>> uid_of("val.parquet", 7, 0)
    'val.parquet:7_0_0'
    """
    return f"{file}:{row}_{sample}_0"


def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """`index`, `image_id` and `question` of a converter's row, as fields of a `Prediction`."""
    index, image_id, question = (value_at(row, ("extra_info", name)) for name in ("index", "image_id", "question"))
    return {
        "index": index if isinstance(index, int) else None,
        "image_id": None if image_id in (None, "") else str(image_id),
        "question": question if isinstance(question, str) else None,
    }


def encode(predictions: Sequence[Prediction]) -> bytes:
    """Encode predictions as lines of a file; `read_predictions` is the inverse."""
    return msgspec.json.Encoder().encode_lines(predictions)


def read_predictions(file: Path) -> Iterator[Prediction]:
    """Read the predictions of a file in order; a cut-off last line is skipped."""
    with reading(file), file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                if not line.isspace():
                    yield _decode(line)
            except ValueError as error:
                reason = f"not a prediction ({str(error)[:120]}); needs a file written by visionr1 eval"
                raise RowsError(f"{file}: line {number}: {reason}") from None


_decode = msgspec.json.Decoder(Prediction).decode
