"""Which folder holds a model: checkpoints that are merged, Hugging Face folders, and adapters."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_folders import checkpoint, hugging_face
from scripted import TINY

from verl_visionr1.evaluation.generation import checkpoints
from verl_visionr1.evaluation.generation.checkpoints import ModelError, actor_of, find_model, merged


@pytest.mark.parametrize("is_supervised", [False, True], ids=["RL", "SFT"])
def test_a_checkpoint_is_known_by_any_of_its_folders(tmp_path: Path, is_supervised: bool) -> None:
    """verl's SFT trainer has no folder of the actor."""
    folder = checkpoint(tmp_path, size=2)
    if is_supervised:
        folder = shutil.copytree(folder, folder.parent, dirs_exist_ok=True)
        shutil.rmtree(folder / "actor")
    for path in (tmp_path, tmp_path / "checkpoints", *tmp_path.glob("checkpoints/*_2"), folder, folder / "huggingface"):
        assert actor_of(path) == folder


def test_the_last_whole_step_is_taken(tmp_path: Path) -> None:
    first = checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 10)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")  # step 10 is being written
    assert actor_of(tmp_path) == first
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("4")
    with pytest.raises(ModelError, match="checkpoints: no latest_checkpointed_iteration"):
        actor_of(tmp_path)
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").unlink()
    with pytest.raises(ModelError, match="checkpoints: no latest_checkpointed_iteration"):
        actor_of(tmp_path / "checkpoints")


def lose_shards(actor: Path, *ranks: int) -> None:
    for rank in ranks:
        (actor / f"model_world_size_2_rank_{rank}.pt").unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda actor: lose_shards(actor, 1), r"model_world_size_2_rank_1\.pt is missing \(1 of 2\)"),
        (lambda actor: lose_shards(actor, 0, 1), "save_contents left it out"),
        (lambda actor: (actor / "fsdp_config.json").unlink(), r"fsdp_config\.json"),
        (lambda actor: (actor / "fsdp_config.json").write_text("[]"), r"fsdp_config\.json"),
        (lambda actor: (actor / "huggingface" / "config.json").unlink(), r"no huggingface/config\.json"),
        (lambda actor: (actor / "model" / "dist_ckpt").mkdir(parents=True), "merge --backend megatron --local_dir"),
        (lambda actor: actor.rename(actor.with_name("critic")), "no such folder"),
    ],
)
def test_checkpoints_that_are_not_whole(tmp_path: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(checkpoint(tmp_path, size=2))
    with pytest.raises(ModelError, match=said) as caught:
        find_model(str(tmp_path / "checkpoints" / "global_step_2"), tmp_path / "out")
    assert "\n" not in str(caught.value)


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
        (lambda folder: (folder / "config.json").write_text("[1]"), r"config\.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "LoRA adapter"),
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
