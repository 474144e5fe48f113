"""Which parts of a model are its blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import efficientnet_b0, resnet18, vit_b_16

from dist_ai.distributed.strategies.blocks import find_blocks, num_parameters, recompute_in_backward
from dist_ai.errors import ConfigError


def names(model: nn.Module, blocks: list[nn.Module]) -> list[str]:
    by_id = {id(module): name for name, module in model.named_modules()}
    return [by_id[id(block)] for block in blocks]


def test_a_resnets_blocks_are_its_residual_blocks() -> None:
    with torch.device("meta"):
        model = resnet18()
    found = names(model, find_blocks(model, min_parameters=50_000))
    assert found == [*(f"layer{i}.{j}" for i in range(1, 5) for j in range(2)), "fc"]
    assert names(model, find_blocks(model)) == ["layer3.1", "layer4.0", "layer4.1"]  # those of a million parameters


def test_rows_of_layers_are_blocks_and_stages_of_blocks_are_not() -> None:
    def row() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    model = nn.Sequential(nn.Sequential(row(), row()), nn.Sequential(row(), row()), nn.Linear(4, 4))
    assert names(model, find_blocks(model, min_parameters=10)) == ["0.0", "0.1", "1.0", "1.1", "2"]
    with torch.device("meta"):
        efficient = efficientnet_b0()
    found = names(efficient, find_blocks(efficient, min_parameters=100_000))
    assert found[0] == "features.4.1"
    assert found[-1] == "classifier.1"


def test_a_transformers_blocks_are_its_layers() -> None:
    with torch.device("meta"):
        model = vit_b_16()
        language = nn.ModuleDict(
            {
                "embedding": nn.Embedding(5000, 256),
                "encoder": nn.TransformerEncoder(nn.TransformerEncoderLayer(256, 4), 3, enable_nested_tensor=False),
                "head": nn.Linear(256, 5000),
            }
        )
    assert names(model, find_blocks(model)) == [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    assert names(language, find_blocks(language)) == [
        "embedding",
        *(f"encoder.layers.{i}" for i in range(3)),
        "head",
    ]


def test_layers_whose_parts_are_read_without_being_called_stay_whole() -> None:
    model = nn.Sequential(nn.MultiheadAttention(16, 2), nn.Linear(16, 16))
    assert names(model, find_blocks(model, min_parameters=10)) == ["0", "1"]


def test_shared_parameters_keep_their_modules_out_of_blocks() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    model[2].weight = model[0].weight
    assert names(model, find_blocks(model, min_parameters=10)) == ["1"]
    assert num_parameters(model) == 36 + 20


def test_blocks_are_named_by_class_its_name_or_their_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    assert names(model, find_blocks(model, [nn.Linear])) == ["0", "1.0"]
    assert names(model, find_blocks(model, ["Linear", "LayerNorm"])) == ["0", "1.0", "1.1"]
    assert names(model, find_blocks(model, ["1"])) == ["1"]
    with pytest.raises(ConfigError) as refused:
        find_blocks(model, ["Linaer"])
    assert str(refused.value) == (
        "blocks: 'Linaer' is neither a class nor the name of a module in this Sequential; did you mean 'Linear'?; give "
        "classes, their names, or names of modules"
    )
    with pytest.raises(ConfigError, match="blocks: Conv2d is neither"):
        find_blocks(model, [nn.Conv2d])


def test_activations_computed_again_give_the_same_gradients_under_the_same_names() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.5)) for _ in range(3)])

    kept: dict[bool, int] = {}
    grads = {}
    for again in (False, True):
        model = make()
        if again:
            recompute_in_backward(model, [nn.Sequential])
            recompute_in_backward(model, [nn.Sequential])  # a second time changes nothing
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.ones(64, 8)).square().sum().backward()
        kept[again] = sum(saved.values())
        grads[again] = {name: p.grad for name, p in model.named_parameters()}
    assert kept[True] < kept[False] / 2
    assert grads[True].keys() == grads[False].keys()
    for name, grad in grads[False].items():
        assert torch.equal(grads[True][name], grad)
