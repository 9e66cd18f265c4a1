"""Memory of a step of verl 0.9.1 on a GPU and on its host, part by part. Estimates, not measured on a GPU.

Training and generation share a GPU, but do not use its memory at the same time: while vLLM generates, gradients are
gone; while the model is trained, vLLM sleeps and holds neither weights nor cache (`rollout.free_cache_engine`, the
default). Between them, when weights are handed over, both hold weights. Each of the three phases is computed
separately.

One GB is 2**30 bytes, as drivers and vLLM count. P: parameters, T: trained parameters, N: GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from verl_visionr1.tools.plan.shape import Layers, PlanError, Shape

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

    Raises:
        PlanError: a number that is not positive.
    """

    gpus: int
    nodes: int = 1
    gpu_gb: float = 80.0
    host_gb: float | None = None
    has_flash: bool = True

    def __post_init__(self) -> None:
        given = {"gpus": self.gpus, "nodes": self.nodes, "gpu-memory": self.gpu_gb, "host-memory": self.host_gb}
        for option, value in given.items():
            if value is not None and not value > 0:
                raise PlanError(f"--{option} {value:g}: needs a number above 0")

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
        image_tokens: most tokens of a prompt that belong to an image.

    Raises:
        PlanError: a number that is not positive.
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
        for name in ("max_prompt", "max_response", "answers", "prompts"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} = {getattr(self, name)}: needs a number above 0")
        if self.lora_rank < 0:
            raise PlanError(f"--lora {self.lora_rank}: needs a rank, or 0 for none")
        if self.image_tokens is not None and not 0 <= self.image_tokens <= self.max_prompt:
            raise PlanError(
                f"--image-tokens {self.image_tokens}: a prompt has {self.max_prompt} tokens at most (--max-prompt); "
                "allow smaller images, or longer prompts"
            )

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return self.max_prompt + self.max_response

    @property
    def image_share(self) -> float:
        """Largest share of a sequence's tokens that belong to an image."""
        return (self.max_prompt if self.image_tokens is None else self.image_tokens) / self.length


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


def trained_params(shape: Shape, run: Run) -> float:
    """T: all parameters without a frozen vision tower; with LoRA only the adapter."""
    if run.lora_rank:
        return float(shape.lora_params(run.lora_rank))
    return shape.params - (shape.vision_params if run.is_vision_frozen else 0.0)


def held_params(shape: Shape, run: Run) -> float:
    """Parameters that FSDP shards: model and adapter."""
    return shape.params + (shape.lora_params(run.lora_rank) if run.lora_rank else 0)


def training(shape: Shape, machine: Machine, run: Run, settings: Settings) -> list[Part]:
    """Peak memory of a GPU in an update: the backward pass of a full micro-batch."""
    trained, held = trained_params(shape, run), held_params(shape, run)
    on_gpu = 0.0 if settings.offload_always else 1.0
    tokens = settings.tokens * UNEVEN * (1 if machine.has_flash else PADDED)
    padded = "" if machine.has_flash else f"{PADDED:g} x for padding, "
    return [
        Part("weights", on_gpu * MASTER * held / machine.n / GB, "fp32, sharded: 4 bytes x P / N"),
        Part("gradients", on_gpu * GRADIENT * trained / machine.n / GB, "fp32, sharded: 4 bytes x T / N"),
        Part("Adam", on_gpu * ADAM * trained / machine.n / GB, "two fp32 moments, sharded: 8 bytes x T / N"),
        Part("gathered layers", _gather(shape, run) / GB, "bf16: head, two layers at a time, and their gradients"),
        Part("activations", _activations(shape, run, tokens) / GB, f"{padded}checkpointed, {tokens:.0f} tokens"),
        Part("logits", _logits(shape, tokens, settings.is_fused) / GB, _logits_why(shape, settings)),
        Part("process", TRAINER_GB, "CUDA contexts, NCCL, fragments, sleeping vLLM"),
    ]


def _gather(shape: Shape, run: Run) -> float:
    """FSDP2 keeps the root's weights (head, tied embedding) gathered, and the weights of this layer and the next.

    The gradient of a group is bf16 while it is whole, with an fp32 copy on its way to the shards.
    """
    weights = BF16 * (shape.head_params + 2 * shape.layer_params)
    return weights + (0 if run.lora_rank else (BF16 + MASTER) * max(shape.head_params, shape.layer_params))


def _activations(shape: Shape, run: Run, tokens: float) -> float:
    """Activations with gradient checkpointing: the input of each layer, and all activations of one layer.

    One layer takes about 12 vectors of its width and 6 of its MLP's width, forward and backward, in bf16. A frozen
    vision tower keeps nothing for a backward pass.
    """
    patches = tokens * run.image_share * PATCHES_PER_TOKEN
    kept = BF16 * tokens * shape.text.n * shape.text.hidden
    if not (run.is_vision_frozen or run.lora_rank):
        kept += BF16 * patches * shape.vision.n * shape.vision.hidden
    return kept + max(_working(shape.text, tokens), _working(shape.vision, patches))


def _working(layers: Layers, tokens: float) -> float:
    return BF16 * tokens * (12 * layers.hidden + 6 * layers.intermediate)


def _logits(shape: Shape, tokens: float, is_fused: bool) -> float:
    if is_fused:
        return float(FUSED_BYTES * FUSED_CHUNK * shape.vocab)
    return LOGIT_BYTES * tokens * shape.vocab


def _logits_why(shape: Shape, settings: Settings) -> str:
    if settings.is_fused:
        return f"fused: {FUSED_CHUNK} tokens at a time x {shape.vocab} words x {FUSED_BYTES} bytes"
    return f"all tokens x {shape.vocab} words x {LOGIT_BYTES} bytes"


def waiting(shape: Shape, machine: Machine, run: Run, settings: Settings) -> list[Part]:
    """Memory of training on a GPU while vLLM generates. Gradients are dropped after each update."""
    keeps_weights = not (settings.offload_params or settings.offload_always)
    keeps_adam = not (settings.offload_adam or settings.offload_always)
    weights = MASTER * held_params(shape, run) / machine.n / GB if keeps_weights else 0.0
    adam = ADAM * trained_params(shape, run) / machine.n / GB if keeps_adam else 0.0
    return [
        Part("training's weights", weights, "fp32 shard" if keeps_weights else "in host memory"),
        Part("training's Adam", adam, "fp32 shard" if keeps_adam else "in host memory"),
        Part("training's process", TRAINER_GB, "CUDA context, NCCL, fragments"),
    ]


def engine_weights_gb(shape: Shape, settings: Settings) -> float:
    """vLLM's weights on a GPU: 2 bytes x P / tensor parallel."""
    return BF16 * shape.params / settings.tensor_parallel / GB


def hand_over(shape: Shape, machine: Machine, run: Run, settings: Settings) -> list[Part]:
    """Memory while weights go to vLLM: training's share, vLLM's weights, a bucket, and one whole tensor in fp32."""
    return [
        *waiting(shape, machine, run, settings),
        Part(
            "vLLM's weights", engine_weights_gb(shape, settings), f"bf16 / tensor parallel {settings.tensor_parallel}"
        ),
        Part("in transfer", BUCKET_GB + MASTER * shape.head_params / GB, "a bucket of 2 GB and the largest tensor"),
    ]


def cache_gb(shape: Shape, run: Run, settings: Settings, sequences: float) -> float:
    """KV cache on a GPU for this many sequences at once; answers to one prompt share the prompt's part."""
    tokens = sequences * (run.max_response + run.max_prompt / min(run.answers, max(sequences, 1.0)))
    return max(tokens, run.length) * shape.kv_bytes_per_token / settings.tensor_parallel / GB


def loading_gb(shape: Shape, machine: Machine, run: Run) -> float:
    """A GPU's shard in fp32 when the model is loaded, whatever is offloaded later (`fsdp2_load_full_state_dict`)."""
    return MASTER * held_params(shape, run) / machine.n / GB + TRAINER_GB


def host(shape: Shape, machine: Machine, run: Run, settings: Settings) -> list[Part]:
    """Peak memory of one node, at the start or later."""
    trained, held = trained_params(shape, run), held_params(shape, run)
    node = machine.nodes * GB
    kept: list[Part] = []
    if settings.offload_always:
        bytes_kept = MASTER * held + (GRADIENT + ADAM) * trained
        kept.append(Part("always offloaded", bytes_kept / node, "4 bytes x P + 12 bytes x T, over the nodes"))
    if settings.offload_params:
        kept.append(Part("offloaded weights", MASTER * held / node, "4 bytes x P, over the nodes"))
    if settings.offload_adam:
        kept.append(Part("offloaded Adam", ADAM * trained / node, "8 bytes x T, over the nodes"))
    if run.has_kl and not run.lora_rank:
        kept.append(Part("reference model", BF16 * shape.params / node, "always in host memory: 2 bytes x P, bf16"))
    if run.lora_rank:
        engines = machine.gpus * engine_weights_gb(shape, settings)
        kept.append(Part("sleeping vLLM", engines, "with LoRA its weights stay in host memory: 2 bytes x P per engine"))
    loading = MASTER * shape.params * (machine.gpus if shape.is_tied else 1) / GB
    start = Part("loading the model", loading, f"fp32, once{' per worker (tied embeddings)' if shape.is_tied else ''}")
    processes = PROCESSES_GB + PROCESSES_GB_PER_GPU * machine.gpus
    states = [part for part in kept if part.name != "reference model"]
    larger = [start] if start.gb > total(states) else states
    reference = [part for part in kept if part.name == "reference model"]
    return [*larger, *reference, Part("processes", processes, "Ray, agent loops, reward workers, data loaders: rough")]
