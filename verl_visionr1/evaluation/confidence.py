"""Confidence of each box: language models give no scores, but average precision needs an order.

* `constant`: 1.0 for all (Vision-R1's released evaluator: .99; VLM-R1: 1). Within an image, boxes rank in the order of
  the answer; images rank in random orders, see `average_precision`.
* `order`: 1 - i/n for the i-th of the n boxes of an answer (i from 0): earlier boxes rank higher.
  After the first box, boxes of short answers rank lower than those of long ones.
* `logprob`: sqrt(p_box * p_label), where p is the geometric mean of the probabilities of the tokens of the box or
  label, as in Griffon (`sqrt(loc_prob * label_prob)`). p is exp(mean of the log-probabilities) of the tokens that
  overlap the text. A box without a label: p_box.

Log-probabilities are those of the model before temperature, at the tokens that it wrote.
"""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np

from verl_visionr1.answers import PARSERS
from verl_visionr1.answers.spans import Span, box_spans
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.settings import EvaluationError


def confidences(read: Read, rule: str) -> list[float]:
    """The confidence of each usable box of an answer, in [0, 1].

    Raises:
        EvaluationError: the rule needs log-probabilities, and a prediction with boxes has none.
    """
    n = len(read.answer.boxes_xyxy)
    if rule == "constant":
        return [1.0] * n
    if rule == "order":
        return [1.0 - i / n for i in range(n)]
    return _from_logprobs(read) if n else []


def token_logprobs(prediction: Prediction, start: int, end: int) -> list[float]:
    """Log-probabilities of the tokens that overlap `output[start:end]`.

    >>> tokens = {"starts": (0, 1, 4), "logprobs": (-0.1, -0.2, -0.3)}
    >>> row = {"input": "", "output": "[123]", "gts": "", "data_source": "", "file": "", "row": 0, "uid": ""}
    >>> token_logprobs(Prediction(**row, **tokens), 1, 4)
    [-0.2]
    """
    starts = prediction.starts
    first = int(np.searchsorted(starts, start, side="right")) - 1
    last = int(np.searchsorted(starts, end, side="left"))
    ends = (*starts[1:], len(prediction.output))
    return [prediction.logprobs[i] for i in range(max(first, 0), last) if ends[i] > starts[i]]


def _from_logprobs(read: Read) -> list[float]:
    prediction = read.prediction
    if not prediction.logprobs:
        where = f"{prediction.file}: row {prediction.row}"
        raise EvaluationError(f"{where}: no log-probabilities; generate with --logprobs, or set confidence=order")
    as_spoken = PARSERS[read.preset.answer_format](read.case.completion)
    spans = box_spans(prediction.output, as_spoken)
    return [_confidence(prediction, span) for span in spans]


def _confidence(prediction: Prediction, span: Span | None) -> float:
    if span is None:
        return 0.0
    box = token_logprobs(prediction, *span.box)
    label = token_logprobs(prediction, *span.label) if span.label else []
    return math.exp(fmean(map(fmean, filter(None, (box, label))))) if box else 0.0
