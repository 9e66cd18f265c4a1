"""`visionr1 plan`: choose verl's memory settings for a model and a machine, with reasons."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

import typer
from rich.console import Console

from verl_visionr1.cli.rollouts import stop


def plan(
    gpus: Annotated[int, typer.Option(help="GPUs per node", min=1)],
    max_prompt: Annotated[int, typer.Option(help="tokens of the longest prompt, image included", min=1)] = 1024,
    max_response: Annotated[int, typer.Option(help="tokens of the longest answer", min=1)] = 1024,
    rollout_n: Annotated[int, typer.Option(help="answers per prompt", min=1)] = 8,
    train_batch: Annotated[int, typer.Option(help="prompts per step", min=1)] = 64,
    params: Annotated[float | None, typer.Option(help="parameters of the model, such as 8.29e9")] = None,
    vision_params: Annotated[float | None, typer.Option(help="parameters of its vision tower")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="instead of --params: a local Hugging Face folder, or a name such as Qwen/Qwen2.5-VL-7B-Instruct"
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(help="nodes", min=1)] = 1,
    gpu_memory: Annotated[float, typer.Option(help="GB per GPU", min=1)] = 80.0,
    host_memory: Annotated[
        float | None, typer.Option(help="GB of host memory per node; default: assumed to be enough", min=1)
    ] = None,
    image_tokens: Annotated[
        int | None, typer.Option(help="tokens of the largest image; default: the whole prompt", min=0)
    ] = None,
    lora: Annotated[int, typer.Option(help="rank of LoRA; 0: all weights are trained", min=0)] = 0,
    freeze_vision: Annotated[bool, typer.Option("--freeze-vision", help="the vision tower is not trained")] = False,
    kl: Annotated[bool, typer.Option("--kl", help="KL to a reference model")] = False,
    attention: Annotated[
        Literal["flash", "sdpa"] | None,
        typer.Option(help="attention in training; default: flash if flash-attn is installed here, else sdpa"),
    ] = None,
    overrides: Annotated[
        bool, typer.Option("--overrides", help="print one override per line; the explanation goes to standard error")
    ] = False,
) -> None:
    """Choose offload, micro-batches and vLLM's share so that a run fits. Estimates; exit code 1: nothing fits."""
    from verl_visionr1.tools.plan import choosing
    from verl_visionr1.tools.plan.memory import Machine, Run
    from verl_visionr1.tools.plan.shape import shape_of_model, shape_of_size
    from verl_visionr1.tools.plan.view import explanation, overrides_of

    console = Console(stderr=overrides, soft_wrap=True)
    assumed = attention is None
    attention = attention or ("flash" if find_spec("flash_attn") else "sdpa")
    try:
        if (params is None) == (model is None):
            raise ValueError("give either --params NUMBER or --model FOLDER_OR_NAME")
        shape = shape_of_size(params, vision_params) if params is not None else shape_of_model(model or "")
        machine = Machine(gpus, nodes, gpu_memory, host_memory, attention == "flash")
        run = Run(max_prompt, max_response, rollout_n, train_batch, lora, freeze_vision, kl, image_tokens)
        chosen = choosing.plan(shape, machine, run)
    except choosing.NothingFitsError as error:
        raise stop("plan", error, code=1) from None
    if assumed:
        is_here = "is" if attention == "flash" else "is not"
        console.print(f"flash-attn {is_here} installed here: planned with --attention {attention}", highlight=False)
    for part in explanation(chosen):
        console.print(part, highlight=False)
    if overrides:
        for key, value, _ in overrides_of(chosen):
            typer.echo(f"{key}={value}")
