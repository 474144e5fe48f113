"""Semantic tensors: what a value is survives whatever is done to it, and the model never sees it."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from dist_ai.core.types import SemanticTensor, TensorCategory, plain
from dist_ai.core.vision_types import TensorImage


class TensorDepth(SemanticTensor):
    """Metres; for these tests."""


KINDS = [TensorCategory, TensorImage, TensorDepth]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def image(request: pytest.FixtureRequest) -> SemanticTensor:
    return request.param(torch.arange(24.0).view(2, 3, 4), unit="metre", box=[1, 2])


def check(result: Any, like: SemanticTensor) -> None:
    assert type(result) is type(like)
    assert result.__dict__ == {"unit": "metre", "box": [1, 2]}


# ------------------------------------------------------------------------------------ what survives

ONE_TO_ONE = {
    "arithmetic": lambda x: 2 * (x + 1) / 3 - x**2,
    "comparison": lambda x: x > 3,
    "index": lambda x: x[0],
    "slice": lambda x: x[:, 1:, ::2],
    "mask": lambda x: x[x > 3],
    "None and ellipsis": lambda x: x[None, ..., 0],
    "reduction": lambda x: x.mean(dim=0),
    "reshape": lambda x: x.reshape(4, 6).T.contiguous().flatten(),
    "dtype": lambda x: x.to(torch.float16).double(),
    "device": lambda x: x.to("cpu").cpu().to("meta"),
    "clone": lambda x: x.clone().detach(),
    "new": lambda x: torch.zeros_like(x),
    "in place": lambda x: x.mul_(2).clamp_(0, 9),
    "out of a function": lambda x: torch.nn.functional.pad(x, (1, 1)),
    "keyword arguments only": lambda x: torch.clamp(input=x, min=3),
    "second argument": lambda x: torch.ones(4) * x,
    "cat": lambda x: torch.cat([x, x]),
    "stack": lambda x: torch.stack((x, x), dim=1),
    "stack by keyword": lambda x: torch.stack(tensors=[x, x]),
    "where": lambda x: torch.where(x > 3, x, 0),
    "interpolate": lambda x: torch.nn.functional.interpolate(x[None].float(), scale_factor=2.0),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "share_memory": lambda x: x.share_memory_(),
}


@pytest.mark.parametrize("operation", ONE_TO_ONE)
def test_type_and_metadata_survive(operation: str, image: SemanticTensor):
    expected = ONE_TO_ONE[operation](plain(image).clone())
    result = ONE_TO_ONE[operation](image)
    check(result, image)
    if not expected.is_meta:
        assert torch.equal(plain(result), expected)


def test_every_part_of_a_result_with_several_survives(image: SemanticTensor):
    for part in [*image.unbind(0), *image.split(1, dim=1), *torch.chunk(image, 2)]:
        check(part, image)
    largest = image.max(dim=1)
    assert type(largest).__name__ == "max"
    check(largest.values, image)
    check(largest.indices, image)
    for row in image:
        check(row, image)


def test_what_is_not_a_tensor_stays_what_it_is(image: SemanticTensor):
    assert type(image.shape) is torch.Size
    assert type(image.tolist()) is list
    assert type(image.sum().item()) is float
    assert image.dtype is torch.float32
    assert type(image.size(0)) is int
    assert image[0].numpy().shape == (3, 4)


def test_the_result_of_several_takes_after_the_first():
    depth, category = TensorDepth([1.0], unit="metre"), TensorCategory([2], vocab="ab")
    assert type(depth + category) is TensorDepth
    assert (depth + category).__dict__ == {"unit": "metre"}
    assert type(category + depth) is TensorCategory
    assert (category + depth).__dict__ == {"vocab": "ab"}
    assert type(torch.ones(1) * depth) is TensorDepth


def test_metadata_belongs_to_its_tensor():
    a = TensorDepth([1.0], unit="metre")
    b = a + 1
    b.unit = "foot"
    assert (a.unit, b.unit) == ("metre", "foot")


def test_a_deep_copy_shares_neither_memory_nor_metadata(image: SemanticTensor):
    twin = copy.deepcopy({"a": image, "b": image})
    check(twin["a"], image)
    assert twin["a"] is twin["b"]
    twin["a"].zero_()
    twin["a"].box.append(3)
    assert image.sum() > 0
    assert image.box == [1, 2]


def test_making_one_shares_the_memory_and_forgets_another_meaning():
    data = torch.zeros(3)
    depth = TensorDepth(data, unit="metre")
    data[0] = 1
    assert depth.tolist() == [1, 0, 0]
    category = TensorCategory(depth)
    assert type(category) is TensorCategory
    assert category.__dict__ == {}
    assert TensorCategory([1, 2]).dtype == torch.int64


def test_gradients_flow_through():
    image = TensorImage(torch.arange(24.0).view(2, 3, 4), unit="metre", box=[1, 2])
    weight = torch.ones(4, requires_grad=True)
    (image * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == plain(image).sum((0, 1)).tolist()
    leaf = image.clone().requires_grad_()
    (leaf**2).sum().backward()
    check(leaf.grad, image)


def test_torch_save_and_load_keep_the_values(image: SemanticTensor):
    file = io.BytesIO()
    torch.save(plain(image), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), plain(image))


class ImagesOnDemand(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[TensorImage, TensorCategory]:
        return TensorImage(torch.full((1, 2, 2), float(i)), unit="metre"), TensorCategory(torch.tensor(i), vocab="abcd")


def as_it_is(samples: list[Any]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.stack(column) for column in zip(*samples, strict=True))


def test_type_and_metadata_survive_the_way_from_a_loader_worker():
    loader = torch.utils.data.DataLoader(ImagesOnDemand(), batch_size=2, num_workers=1, collate_fn=as_it_is)
    batches = list(loader)
    assert len(batches) == 2
    for i, (x, y) in enumerate(batches):
        assert (type(x), x.__dict__) == (TensorImage, {"unit": "metre"})
        assert (type(y), y.__dict__) == (TensorCategory, {"vocab": "abcd"})
        assert y.tolist() == [2 * i, 2 * i + 1]


# ------------------------------------------------------------------------------------ torchvision


@pytest.mark.parametrize(
    "transform",
    [
        v2.Resize((5, 6), antialias=True),
        v2.RandomHorizontalFlip(p=1),
        v2.CenterCrop(2),
        v2.RandomResizedCrop(4, antialias=True),
        v2.RandomRotation(30),
        v2.ColorJitter(0.5),
        v2.Normalize([0.5] * 3, [0.2] * 3),
        v2.ToDtype(torch.float32, scale=True),
        v2.Compose([v2.RandomVerticalFlip(p=1), v2.GaussianBlur(3)]),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_torchvision_transforms_take_an_image_as_it_is_and_give_one_back(transform: Any):
    pixels = torch.rand(3, 8, 8)
    torch.manual_seed(0)
    result = transform(TensorImage(pixels, unit="metre"))
    torch.manual_seed(0)
    expected = transform(pixels)
    assert type(result) is TensorImage
    assert result.unit == "metre"
    assert torch.equal(plain(result), expected)


def test_torchvision_leaves_types_it_does_not_know_alone():
    image, label = v2.RandomHorizontalFlip(p=1)((TensorImage(torch.eye(2)[None]), TensorCategory([1, 2])))
    assert plain(image).tolist() == [[[0, 1], [1, 0]]]
    assert type(label) is TensorCategory
    assert label.tolist() == [1, 2]


# ------------------------------------------------------------------------------------ plain tensors


class Pair(NamedTuple):
    x: Any
    y: Any


def test_plain_shares_the_memory_and_maps_containers(image: SemanticTensor):
    mapped = plain({"a": [image, (image, 3)], "b": Pair(image, "text"), "c": None})
    assert type(mapped["b"]) is Pair
    assert mapped["b"].y == "text"
    for tensor in (mapped["a"][0], mapped["a"][1][0], mapped["b"].x):
        assert type(tensor) is torch.Tensor
        assert tensor.data_ptr() == image.data_ptr()
        assert not hasattr(tensor, "unit")
    assert (mapped["a"][1][1], mapped["c"]) == (3, None)
    tensor = torch.zeros(1)
    assert plain(tensor) is tensor
    check(image, image)


def test_plain_keeps_the_gradient(image: SemanticTensor):
    leaf = image.float().requires_grad_()
    plain(leaf).sum().backward()
    assert leaf.grad is not None


def test_a_compiled_model_gets_plain_tensors_and_is_compiled_once():
    compiled = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append([type(x) for x in inputs])
        return graph.forward

    model = torch.compile(nn.Linear(4, 2), backend=count, fullgraph=True)
    for i in range(3):
        model(plain(TensorImage(torch.zeros(2, 4), unit=i)))
    assert len(compiled) == 1
    assert torch.Tensor in compiled[0]
    assert TensorImage not in compiled[0]
