"""Fuse a LoRA adapter into the weights of its model: `python -m verl_visionr1.evaluation.generation.fuse FOLDER`.

verl's merger leaves the base model in FOLDER and the adapter in FOLDER/lora_adapter. Fused weights are rounded once,
while training's own validation adds the adapter's product to each layer's output: a few tokens may differ.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path


def fuse(folder: Path) -> None:
    """Fuse the adapter in `folder`, and remove it."""
    adapter = folder / "lora_adapter"
    if not json.loads((adapter / "adapter_config.json").read_bytes()).get("lora_alpha"):
        raise ValueError("the checkpoint has no lora_train_meta.json with lora_alpha, so its scale is unknown")

    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    fused = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    fused.save_pretrained(folder)
    shutil.rmtree(adapter)


if __name__ == "__main__":
    fuse(Path(sys.argv[1]))
