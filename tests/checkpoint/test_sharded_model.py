"""A model and an optimizer sharded by `fully_shard` go through a checkpoint to any other number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from saving import save
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from dist_ai.checkpoint import Checkpoint
from dist_ai.distributed import join
from dist_ai.distributed.sharded import is_sharded
from dist_ai.optimizer import Adam
from dist_ai.optimizer.optimizer import ParamGroup


def make(sharded: bool) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    if sharded:
        join()
        fully_shard(model)
    return model, Adam([ParamGroup(dict(model.named_parameters()))], lr=0.01)


def step(model: nn.Module, opt: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    model(torch.randn(6, 5, generator=generator, dtype=torch.float64)).square().mean().backward()
    opt.step()
    opt.zero_grad()


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).flatten().tolist()
        for name, tensor in tensors.items()
    }


def train_and_write(folder: str, sharded: bool) -> None:
    model, opt = make(sharded)
    step(model, opt)
    tensors, plain = opt.state()
    assert any(map(is_sharded, tensors.values())) == sharded
    save(Path(folder), {"model": model.state_dict(), "optimizer": tensors}, state={"optimizer": plain})


def read_and_train(folder: str, sharded: bool) -> dict[str, list[float]]:
    model, opt = make(sharded)
    found = Checkpoint.open(Path(folder) / "c")
    live = model.state_dict()
    loaded = found.read("model", {name: tensor for name, tensor in live.items() if is_sharded(tensor)})
    model.load_state_dict(loaded)
    params = dict(model.named_parameters())
    layout = {name: params[name.split(".", 1)[1]] for name in found.names("optimizer")} if sharded else {}
    opt.load_state(found.read("optimizer", layout), found.state["optimizer"])
    step(model, opt)
    return whole({**model.state_dict(), **opt.state()[0]})


def test_sharded_or_not_on_any_number_of_ranks_the_next_step_is_the_same(spawn: Any, tmp_path: Path) -> None:
    for writers, sharded in ((1, False), (2, True), (3, True)):
        folder = str(tmp_path / f"{writers}")
        spawn(writers, train_and_write, folder=folder, sharded=sharded)
    [expected] = spawn(1, read_and_train, folder=str(tmp_path / "1"), sharded=False)
    for writers in (1, 2, 3):
        for readers, sharded in ((1, False), (2, True), (3, True)):
            for got in spawn(readers, read_and_train, folder=str(tmp_path / f"{writers}"), sharded=sharded):
                assert got.keys() == expected.keys()
                for name, values in got.items():
                    assert torch.allclose(torch.tensor(values), torch.tensor(expected[name]), atol=1e-12), name
