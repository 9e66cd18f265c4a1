"""Memory of a step of verl 0.9.1 on a GPU and on its host, part by part. Estimates, not measured on a GPU.

Training and generation share a GPU, but do not use its memory at the same time: while vLLM generates, gradients are
gone; while the model is trained, vLLM sleeps and holds neither weights nor cache (`rollout.free_cache_engine`, the
default). Between them, when weights are handed over, both hold weights. Each phase is computed separately.

One GB is 2**30 bytes, as drivers and vLLM count. P: parameters, T: trained parameters, N: GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from verl_visionr1.tools.plan.shape import PlanError, Shape

GB = 2**30
MASTER, GRADIENT, ADAM, BF16 = 4, 4, 8, 2
"""Bytes per parameter: `fsdp_config.model_dtype` is fp32, gradients are reduced in fp32, Adam has two fp32 moments."""
PATCHES_PER_TOKEN = 4
"""Patches that the vision tower sees for one token of the language model (2 x 2 are merged)."""
FUSED_CHUNK, FUSED_BYTES = 512, 20
"""`FusedLinearForPPO` takes 512 tokens at a time; five fp32 copies of their logits live at once in its backward."""
LOGIT_BYTES = 8
"""Without the fused head: bf16 logits, a copy divided by the temperature, and an fp32 copy or the gradient in the cross
entropy."""
UNEVEN = 1.25
"""`rearrange_micro_batches` balances by attention work, so one micro-batch may hold more tokens than the budget."""
PADDED = 2.0
"""Without flash-attn the sequences of a micro-batch are padded to its longest one, and token budgets do not count the
padding. Up to this many times the tokens are processed. A rough figure for prompts with one image each; a few long
answers among short ones take more."""
TRAINER_GB, ENGINE_GB = 3.0, 4.0
"""Contexts, NCCL buffers and fragments of the training process with a sleeping vLLM; vLLM's own workspace: CUDA graphs
and the profiling run with the largest batch. Rough figures for models up to 10 billion parameters."""
BUCKET_GB = 2.0
"""`rollout.checkpoint_engine.update_weights_bucket_megabytes`: weights in transfer to vLLM."""
PROCESSES_GB, PROCESSES_GB_PER_GPU = 20.0, 3.0
"""Host memory of Ray, agent loops, reward workers and data loaders; 12 GB with one worker of each kind and 3 more for a
second training worker were measured on CPU (recipes/launch.sh), the rest is rough."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware.

    Attributes:
        gpus: number on each node.
        host_gb: memory of a node; None: unknown, assumed to be enough.
        has_flash: whether training can use flash-attn; without it, torch's sdpa and padded micro-batches.
    """

    gpus: int
    nodes: int = 1
    gpu_gb: float = 80.0
    host_gb: float | None = None
    has_flash: bool = True

    @property
    def n(self) -> int:
        """Number of all GPUs; FSDP shards over them."""
        return self.gpus * self.nodes


@dataclass(frozen=True, slots=True)
class Run:
    """The training run.

    Attributes:
        max_prompt, max_response: tokens.
        answers: number per prompt (`rollout.n`).
        prompts: number per step (`data.train_batch_size`).
        lora_rank: 0: all weights are trained.
        is_vision_frozen: whether the vision tower is not trained; always so with LoRA.
        has_kl: whether a reference model is used; with LoRA that is the model without its adapter.
        image_tokens: most tokens of a prompt that belong to an image; None: all.

    Raises:
        PlanError: an image with more tokens than a prompt.
    """

    max_prompt: int
    max_response: int
    answers: int
    prompts: int
    lora_rank: int = 0
    is_vision_frozen: bool = False
    has_kl: bool = False
    image_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.image_tokens is not None and self.image_tokens > self.max_prompt:
            raise PlanError(
                f"--image-tokens {self.image_tokens}: a prompt has {self.max_prompt} tokens at most (--max-prompt); "
                "allow smaller images, or longer prompts"
            )

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_prompt + self.max_response

    @property
    def least_tokens(self) -> int:
        """Smallest token budget: the longest sequence, in steps of 256."""
        return math.ceil(self.length / 256) * 256


@dataclass(frozen=True, slots=True)
class Settings:
    """The chosen settings.

    Attributes:
        offload_params, offload_adam: between phases, weights and moments wait in host memory
            (`fsdp_config.param_offload`, `optimizer_offload`). Both are loaded for the whole of training
            (`EngineTrainModeCtx`), so they free memory for vLLM, not for training.
        offload_always: weights, gradients and moments live in host memory, where Adam runs; the GPU sees a layer at a
            time (`fsdp_config.offload_policy`, FSDP2 only). Slow; the other two then have no effect.
        tensor_parallel: GPUs that share one copy of vLLM's weights.
        tokens: budget of one forward and backward pass (`ppo_max_token_len_per_gpu`).
        is_fused: the output head never holds the logits of all tokens (`use_fused_kernels`).
    """

    offload_params: bool = False
    offload_adam: bool = False
    offload_always: bool = False
    tensor_parallel: int = 1
    tokens: int = 16384
    is_fused: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a memory table: GB of one GPU (or of a node), and how it is computed."""

    name: str
    gb: float
    why: str


def total(parts: Iterable[Part]) -> float:
    """GB of all parts."""
    return sum(part.gb for part in parts)


@dataclass(frozen=True, slots=True)
class Step:
    """The memory of a training step."""

    shape: Shape
    machine: Machine
    run: Run
    settings: Settings

    @property
    def trained(self) -> float:
        """T: all parameters without a frozen vision tower; with LoRA only the adapter."""
        if self.run.lora_rank:
            return float(self.shape.lora_params(self.run.lora_rank))
        return self.shape.params - (self.shape.vision_params if self.run.is_vision_frozen else 0.0)

    @property
    def held(self) -> float:
        """Parameters that FSDP shards: model and adapter."""
        return self.shape.params + (self.shape.lora_params(self.run.lora_rank) if self.run.lora_rank else 0)

    def training(self) -> list[Part]:
        """Peak memory of a GPU in an update: the backward pass of a full micro-batch."""
        shard = (0.0 if self.settings.offload_always else 1.0) / self.machine.n / GB
        tokens = self.settings.tokens * UNEVEN * (1 if self.machine.has_flash else PADDED)
        padded = "" if self.machine.has_flash else f"{PADDED:g} x for padding, "
        vocab, bytes_each = self.shape.vocab, FUSED_BYTES if self.settings.is_fused else LOGIT_BYTES
        at_once = FUSED_CHUNK if self.settings.is_fused else tokens
        return [
            Part("weights", MASTER * self.held * shard, "fp32, sharded: 4 bytes x P / N"),
            Part("gradients", GRADIENT * self.trained * shard, "fp32, sharded: 4 bytes x T / N"),
            Part("Adam", ADAM * self.trained * shard, "two fp32 moments, sharded: 8 bytes x T / N"),
            Part("gathered layers", self._gathered() / GB, "bf16: head, two layers at a time, and their gradients"),
            Part("activations", self._activations(tokens) / GB, f"{padded}checkpointed, {tokens:.0f} tokens"),
            Part(
                "logits",
                at_once * vocab * bytes_each / GB,
                f"{at_once:.0f} tokens at once x {vocab} words x {bytes_each} bytes",
            ),
            Part("process", TRAINER_GB, "CUDA contexts, NCCL, fragments, sleeping vLLM"),
        ]

    def _gathered(self) -> float:
        """FSDP2 keeps the root's weights (head, tied embedding) gathered, and the weights of this layer and the next.

        The gradient of a group is bf16 while it is whole, with an fp32 copy on its way to the shards.
        """
        head, layer = self.shape.head_params, self.shape.layer_params
        return BF16 * (head + 2 * layer) + (0 if self.run.lora_rank else (BF16 + MASTER) * max(head, layer))

    def _activations(self, tokens: float) -> float:
        """Activations with gradient checkpointing: the input of each layer, and all activations of one layer.

        One layer takes about 12 vectors of its width and 6 of its MLP's width, forward and backward, in bf16. A frozen
        vision tower keeps nothing for a backward pass.
        """
        run, text, vision = self.run, self.shape.text, self.shape.vision
        image_tokens = run.max_prompt if run.image_tokens is None else run.image_tokens
        patches = tokens * image_tokens / run.length * PATCHES_PER_TOKEN
        kept = BF16 * tokens * text.n * text.hidden
        if not (run.is_vision_frozen or run.lora_rank):
            kept += BF16 * patches * vision.n * vision.hidden
        working = (n * (12 * it.hidden + 6 * it.intermediate) for it, n in ((text, tokens), (vision, patches)))
        return kept + BF16 * max(working)

    def waiting(self) -> list[Part]:
        """Memory of training on a GPU while vLLM generates. Gradients are dropped after each update."""
        settings = self.settings
        parts = []
        for name, size, is_moved in (
            ("training's weights", MASTER * self.held, settings.offload_params or settings.offload_always),
            ("training's Adam", ADAM * self.trained, settings.offload_adam or settings.offload_always),
        ):
            gb = 0.0 if is_moved else size / self.machine.n / GB
            parts.append(Part(name, gb, "in host memory" if is_moved else "fp32 shard"))
        return [*parts, Part("training's process", TRAINER_GB, "CUDA context, NCCL, fragments")]

    def engine_weights(self) -> Part:
        """vLLM's weights on a GPU."""
        n = self.settings.tensor_parallel
        return Part("vLLM's weights", BF16 * self.shape.params / n / GB, f"bf16: 2 bytes x P / tensor parallel {n}")

    def hand_over(self) -> list[Part]:
        """Memory while weights go to vLLM: training's share, vLLM's weights, a bucket, and one whole tensor in fp32."""
        moved = BUCKET_GB + MASTER * self.shape.head_params / GB
        return [
            *self.waiting(),
            self.engine_weights(),
            Part("in transfer", moved, "a bucket of 2 GB and the largest tensor"),
        ]

    def cache_gb(self, sequences: float) -> float:
        """KV cache on a GPU for this many sequences at once; answers to one prompt share the prompt's part."""
        run = self.run
        tokens = sequences * (run.max_response + run.max_prompt / min(run.answers, max(sequences, 1.0)))
        return max(tokens, run.length) * self.shape.kv_bytes_per_token / self.settings.tensor_parallel / GB

    def loading_gb(self) -> float:
        """A GPU's fp32 shard when the model is loaded, whatever is offloaded later (`fsdp2_load_full_state_dict`)."""
        return MASTER * self.held / self.machine.n / GB + TRAINER_GB

    def host(self) -> list[Part]:
        """Peak memory of one node, at the start or later."""
        shape, settings, node = self.shape, self.settings, self.machine.nodes * GB
        kept: list[Part] = []
        if settings.offload_always:
            size = MASTER * self.held + (GRADIENT + ADAM) * self.trained
            kept.append(Part("always offloaded", size / node, "4 bytes x P + 12 bytes x T, over the nodes"))
        if settings.offload_params:
            kept.append(Part("offloaded weights", MASTER * self.held / node, "4 bytes x P, over the nodes"))
        if settings.offload_adam:
            kept.append(Part("offloaded Adam", ADAM * self.trained / node, "8 bytes x T, over the nodes"))
        if self.run.lora_rank:
            engines = self.machine.gpus * self.engine_weights().gb
            kept.append(Part("sleeping vLLM", engines, "with LoRA its weights stay here: 2 bytes x P per engine"))
        loading = MASTER * shape.params * (self.machine.gpus if shape.is_tied else 1) / GB
        if loading > total(kept):
            once = "once per worker (tied embeddings)" if shape.is_tied else "once"
            kept = [Part("loading the model", loading, f"fp32, {once}")]
        if self.run.has_kl and not self.run.lora_rank:
            reference = BF16 * shape.params / node
            kept.append(Part("reference model", reference, "always in host memory: 2 bytes x P, bf16"))
        processes = PROCESSES_GB + PROCESSES_GB_PER_GPU * self.machine.gpus
        return [*kept, Part("processes", processes, "Ray, agent loops, reward workers, data loaders: rough")]
