"""A training worker as verl's FSDP2 engine builds one, small: `python fsdp_steps.py FOLDER RANK WORKERS save|resume`.

`save` writes its part before the third step, as a checkpoint; `resume` reads its part and takes that step. Worker 0
leaves the gathered weights in FOLDER/whole_<WORKERS>.pt.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from verl_visionr1.runtime.checkpoints import shard_file


def main(folder: Path, rank: int, n_workers: int, is_resumed: bool) -> None:
    store = distributed.FileStore(str(folder / f"store_{n_workers}"), n_workers)
    distributed.init_process_group("cpu:gloo", store=store, rank=rank, world_size=n_workers)
    mesh = init_device_mesh("cpu", (n_workers,), mesh_dim_names=("fsdp",))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    files = {
        shard_file(folder, "model", n_workers, rank): model,
        shard_file(folder, "optim", n_workers, rank): optimizer,
    }
    inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    for step in range(2 if is_resumed else 0, 3):
        for file, part in files.items() if step == 2 else ():
            if is_resumed:
                part.load_state_dict(torch.load(file, weights_only=False))
            else:
                torch.save(part.state_dict(), file)
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    whole = {name: value.full_tensor() for name, value in model.state_dict().items()}
    if rank == 0:
        torch.save(whole, folder / f"whole_{n_workers}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "resume")
    os._exit(0)  # a thread of torch's that is still there would abort the interpreter's own exit
