"""Semantic tensors: what a value is survives whatever is done to it, and the model never sees it."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from dist_ai.core.types import (
    SemanticTensor,
    TabularRow,
    TensorCategory,
    TensorLMText,
    TensorMultiCategory,
    TensorRegression,
    TensorSeries,
    TensorText,
    plain,
)
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorImageBW, TensorMask, TensorPoint
from dist_ai.data.collate import collate
from dist_ai.data.device import to_device
from dist_ai.errors import DataError


class TensorDepth(SemanticTensor):
    """Metres: a type from outside, for these tests."""


def counting(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape)


# One of each, with metadata of its own and another that somebody added; every shape begins with 2.
FAMILY: dict[type[SemanticTensor], Callable[[], SemanticTensor]] = {
    TensorCategory: lambda: TensorCategory(counting(2, 3), vocab=["a", "b"], box=[1, 2]),
    TensorMultiCategory: lambda: TensorMultiCategory(counting(2, 5).float() % 2, vocab=["a", "b"], box=[1, 2]),
    TensorRegression: lambda: TensorRegression(counting(2, 3) / 2, unit="metre", box=[1, 2]),
    TensorText: lambda: TensorText(counting(2, 7), box=[1, 2]),
    TensorLMText: lambda: TensorLMText(counting(2, 7), box=[1, 2]),
    TensorSeries: lambda: TensorSeries(counting(2, 3, 8).float(), rate=100, box=[1, 2]),
    TensorImage: lambda: TensorImage(counting(2, 3, 4, 5).float(), box=[1, 2]),
    TensorImageBW: lambda: TensorImageBW(counting(2, 1, 4, 5).to(torch.uint8), box=[1, 2]),
    TensorMask: lambda: TensorMask(counting(2, 4, 5).to(torch.uint8), codes=["sky", "road"], box=[1, 2]),
    TensorPoint: lambda: TensorPoint(counting(2, 3, 2).float(), canvas_size=(4, 5), box=[1, 2]),
    TensorBBox: lambda: TensorBBox(counting(2, 3, 4).float(), canvas_size=(4, 5), format="XYWH", box=[1, 2]),
    TensorDepth: lambda: TensorDepth(counting(2, 3).float(), box=[1, 2]),
}


@pytest.fixture(params=FAMILY, ids=lambda kind: kind.__name__)
def value(request: pytest.FixtureRequest) -> SemanticTensor:
    return FAMILY[request.param]()


def check(result: Any, like: SemanticTensor) -> None:
    assert type(result) is type(like)
    assert result.__dict__ == like.__dict__
    assert "box" in result.__dict__


# ------------------------------------------------------------------------------------ what survives

ONE_TO_ONE = {
    "arithmetic": lambda x: 2 * (x + 1) - x * x,
    "index": lambda x: x[0],
    "slice": lambda x: x[:, 1:, ...],
    "selection": lambda x: x[torch.tensor([True, False])],
    "rows": lambda x: x[[1, 0]],
    "None and ellipsis": lambda x: x[None, ..., 0],
    "reduction": lambda x: x.amax(dim=0),
    "reshape": lambda x: x.reshape(-1).view(2, -1).T.contiguous().flatten(),
    "flip": lambda x: x.flip(-1).roll(1, 0),
    "permutation": lambda x: x.transpose(0, 1).movedim(0, 1),
    "other size of number": lambda x: x.to(torch.float64 if x.is_floating_point() else torch.int32),
    "device": lambda x: x.to("cpu").cpu().to("meta"),
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach().data,
    "new": lambda x: torch.zeros_like(x),
    "in place": lambda x: x.mul_(2).clamp_(0, 9),
    "augmented assignment": lambda x: operator_iadd(x, 1),
    "copy into": lambda x: torch.empty_like(x).copy_(x),
    "out of a function": lambda x: torch.nn.functional.pad(x, (1, 1)),
    "keyword arguments only": lambda x: torch.clamp(input=x, min=3),
    "second argument": lambda x: torch.ones(1, dtype=torch.uint8) * x,
    "out": lambda x: torch.add(x, 1, out=torch.empty_like(x)),
    "cat": lambda x: torch.cat([x, x]),
    "stack": lambda x: torch.stack((x, x), dim=1),
    "stack by keyword": lambda x: torch.stack(tensors=[x, x]),
    "where": lambda x: torch.where(plain(x) > 3, x, 0),
    "index_select": lambda x: x.index_select(0, torch.tensor([1])),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "shared memory": lambda x: x.share_memory_(),
    "collate": lambda x: collate([x, x]),
    "device stage": lambda x: to_device({"x": [x]}, torch.device("cpu"))["x"][0],
}


def operator_iadd(x: torch.Tensor, number: int) -> torch.Tensor:
    x += number
    return x


@pytest.mark.parametrize("operation", ONE_TO_ONE)
def test_type_and_metadata_survive(operation: str, value: SemanticTensor):
    expected = ONE_TO_ONE[operation](plain(value).clone())
    result = ONE_TO_ONE[operation](value)
    check(result, value)
    if not expected.is_meta:
        assert result.dtype == expected.dtype
        assert torch.equal(plain(result), expected)


def test_every_part_of_a_result_with_several_survives(value: SemanticTensor):
    for part in [*value.unbind(0), *value.split(1, dim=1), *torch.chunk(value, 2), *value]:
        check(part, value)
    largest = value.max(dim=1)
    assert type(largest).__name__ == "max"
    check(largest.values, value)


def test_what_is_not_a_tensor_stays_what_it_is(value: SemanticTensor):
    assert type(value.shape) is torch.Size
    assert type(value.tolist()) is list
    assert type(value.amax().item()) in (int, float)
    assert type(value.dtype) is torch.dtype
    assert (type(value.size(0)), type(value.dim()), len(value)) == (int, int, 2)
    assert value[0].numpy().shape == value.shape[1:]


def test_metadata_belongs_to_its_tensor(value: SemanticTensor):
    other = value + 1
    other.box = "mine"
    other.more = 3
    assert value.box == [1, 2]
    assert "more" not in value.__dict__


def test_a_deep_copy_shares_neither_memory_nor_metadata(value: SemanticTensor):
    twin = copy.deepcopy({"a": value, "b": value})
    check(twin["a"], value)
    assert twin["a"] is twin["b"]
    twin["a"].zero_()
    twin["a"].box.append(3)
    assert value.amax() > 0
    assert value.box == [1, 2]


def test_making_one_shares_the_memory_and_forgets_another_meaning():
    data = torch.zeros(3)
    depth = TensorDepth(data, unit="metre")
    data[0] = 1
    assert depth.tolist() == [1, 0, 0]
    target = TensorRegression(depth)
    assert type(target) is TensorRegression
    assert target.__dict__ == {}
    assert target.data_ptr() == data.data_ptr()
    assert TensorCategory([1, 2]).dtype == torch.int64


@pytest.mark.parametrize("kind", [kind for kind in FAMILY if FAMILY[kind]().is_floating_point()])
def test_gradients_flow_through(kind: type[SemanticTensor]):
    value = FAMILY[kind]()
    weight = torch.ones_like(plain(value), requires_grad=True)
    (value * weight).sum().backward()
    assert torch.equal(weight.grad, plain(value))
    leaf = value.clone().requires_grad_()
    check(leaf, value)
    check(copy.deepcopy(leaf), value)
    assert copy.deepcopy(leaf).requires_grad
    (leaf**2).sum().backward()
    check(leaf.grad, value)


def test_torch_save_and_load_keep_the_values(value: SemanticTensor):
    file = io.BytesIO()
    torch.save(plain(value), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), plain(value))


class OneOfEach(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[SemanticTensor, ...]:
        return tuple(make()[0] * 0 + i for make in FAMILY.values())


def test_type_and_metadata_survive_the_way_from_a_loader_worker():
    loader = torch.utils.data.DataLoader(OneOfEach(), batch_size=2, num_workers=1, collate_fn=collate)
    batches = list(loader)
    assert len(batches) == 2
    for i, batch in enumerate(batches):
        for column, make in zip(batch, FAMILY.values(), strict=True):
            check(column, make())
            assert column.flatten(1).amax(1).tolist() == [2 * i, 2 * i + 1]


@pytest.mark.gpu
def test_type_and_metadata_survive_pinning_and_the_way_to_a_device(value: SemanticTensor):
    check(value.pin_memory(), value)
    check(value.pin_memory().to("cuda", non_blocking=True).cpu(), value)
    for batch in torch.utils.data.DataLoader(OneOfEach(), batch_size=2, collate_fn=collate, pin_memory=True):
        for column, make in zip(batch, FAMILY.values(), strict=True):
            check(column, make())


def test_it_says_what_it_is_and_its_metadata():
    assert repr(TensorCategory([1, 2], vocab="ab")) == "TensorCategory([1, 2], vocab='ab')"
    assert str(TensorRegression(torch.tensor(0.5))) == "TensorRegression(0.5000)"
    assert repr(TensorImage(torch.zeros(1, 1, 2))) == "TensorImage([[[0., 0.]]])"
    leaf = TensorDepth([1.0], unit="metre").requires_grad_()
    assert repr(leaf) == "TensorDepth([1.], requires_grad=True, unit='metre')"


def test_a_single_number_is_formatted_as_one():
    assert (
        f"{TensorImage([[[0.25, 0.5]]]).mean():.2f} {TensorCategory(3):02d} {TensorCategory(3)}"
        == "0.38 03 TensorCategory(3)"
    )
    with pytest.raises(TypeError, match="unsupported format string"):
        f"{TensorImage(torch.zeros(1, 1, 2)):.2f}"


# ------------------------------------------------------------------------------------ what operations between types mean

image = TensorImage(torch.rand(3, 4, 4), of="image")
mask = TensorMask(torch.arange(16, dtype=torch.uint8).view(4, 4) % 3, codes=["a", "b", "c"])
category = TensorCategory([1, 2], vocab="abc")
points = TensorPoint([[1, 2]], canvas_size=(4, 4))

WHAT_IT_GIVES: dict[str, tuple[Callable[[], torch.Tensor], torch.Tensor | None]] = {
    "image * number": (lambda: image * 2, image),
    "number - image": (lambda: 1 - image, image),
    "image * mask": (lambda: image * mask, image),
    "mask * image": (lambda: mask * image, image),
    "image * (mask == 1)": (lambda: image * (mask == 1), image),
    "(mask == 1) * image": (lambda: (mask == 1) * image, image),
    "where(mask == 1, image, 0)": (lambda: torch.where(mask == 1, image, 0), image),
    "image[:, mask]": (lambda: image[:, mask == 1], image),
    "mask + category": (lambda: mask[:2, :2] + category, mask),
    "category + mask": (lambda: category + mask[:2, :2], category),
    "category + number": (lambda: category + 1, category),
    "category + 0.5": (lambda: category + 0.5, None),
    "category == other": (lambda: category == TensorCategory([1, 3]), None),
    "mean of categories": (lambda: category.float().mean(), None),
    "sum of categories": (lambda: category.sum(), category),
    "one-hot": (lambda: torch.nn.functional.one_hot(category, 3).float(), None),
    "image > 0.5": (lambda: image > 0.5, None),
    "mask == 1": (lambda: mask == 1, mask),
    "mask.float()": (lambda: mask.float(), None),
    "points + shift": (lambda: points + torch.tensor([1.0, 0]), points),
    "points <= size": (lambda: points <= 4, None),
    "complex numbers of a series": (lambda: torch.fft.rfft(TensorSeries([[1.0, 2.0]])), None),
    "parameter * image": (lambda: nn.Parameter(torch.ones(())) * image, image),
    "in place on a plain one": (lambda: torch.zeros(3, 4, 4).add_(image), None),
    "out=": (lambda: torch.add(image, 1, out=torch.empty(3, 4, 4)), None),
    "in place with another type": (lambda: image.clone().mul_(mask), image),
}


@pytest.mark.parametrize("operation", WHAT_IT_GIVES)
def test_a_result_takes_after_the_first_that_can_hold_its_numbers(operation: str):
    compute, like = WHAT_IT_GIVES[operation]
    result = compute()
    if like is None:
        assert type(result) is torch.Tensor
        assert not result.__dict__
    else:
        assert type(result) is type(like)
        assert result.__dict__ == like.__dict__


def test_what_is_changed_in_place_is_given_back_itself():
    depth, other = TensorDepth([1.0], unit="metre"), torch.ones(1)
    assert depth.add_(other) is depth
    assert other.add_(depth) is other
    assert type(other) is torch.Tensor


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (
            TensorCategory,
            [0.5],
            "TensorCategory holds int, got torch.float32; convert the tensor, or leave it a plain one",
        ),
        (TensorText, torch.zeros(2), "TensorText holds int, got torch.float32"),
        (TensorMask, torch.zeros(2, 2), "TensorMask holds bool or int, got torch.float32"),
        (TensorImage, torch.zeros(1, 2, 2, dtype=torch.bool), "TensorImage holds float or int, got torch.bool"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_when_it_is_made(kind: type, data: Any, message: str):
    with pytest.raises(DataError, match=re.escape(message)):
        kind(data)


def test_an_empty_list_is_of_no_kind_yet():
    assert TensorCategory([]).dtype == torch.int64
    assert TensorRegression([]).dtype == torch.float32


def test_targets_that_are_numbers_are_floats():
    assert TensorRegression([1, 2]).dtype == torch.float32
    assert TensorRegression(torch.tensor(1.0, dtype=torch.float64)).dtype == torch.float64


# ------------------------------------------------------------------------------------ rows of a table


def rows() -> list[TabularRow]:
    return [TabularRow(torch.tensor([i, 2]), torch.tensor([i / 2])) for i in range(3)]


@pytest.mark.parametrize(
    "way",
    [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: to_device(x, torch.device("cpu")), plain],
    ids=["deepcopy", "pickle", "device stage", "plain"],
)
def test_rows_of_a_table_collate_and_travel_field_by_field(way: Callable[[Any], Any]):
    batch = way(collate(rows()))
    assert type(batch) is TabularRow
    assert batch.cats.tolist() == [[0, 2], [1, 2], [2, 2]]
    assert batch.conts.tolist() == [[0.0], [0.5], [1.0]]
    assert (batch.cats.dtype, batch.conts.dtype) == (torch.int64, torch.float32)


# ------------------------------------------------------------------------------------ plain tensors


class Pair(NamedTuple):
    x: Any
    y: Any


def test_plain_shares_the_memory_and_maps_containers(value: SemanticTensor):
    mapped = plain({"a": [value, (value, 3)], "b": Pair(value, "text"), "c": None})
    assert type(mapped["b"]) is Pair
    assert mapped["b"].y == "text"
    for tensor in (mapped["a"][0], mapped["a"][1][0], mapped["b"].x):
        assert type(tensor) is torch.Tensor
        assert tensor.data_ptr() == value.data_ptr()
        assert not hasattr(tensor, "box")
    assert (mapped["a"][1][1], mapped["c"]) == (3, None)
    tensor = torch.zeros(1)
    assert plain(tensor) is tensor
    check(value, value)


def test_plain_keeps_the_gradient():
    leaf = TensorImage(torch.ones(1, 2, 2)).requires_grad_()
    plain(leaf).sum().backward()
    assert leaf.grad is not None


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_that_is_given_plain_tensors_has_no_graph_break(backend: str):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    batch = TensorImage(torch.rand(2, 3, 4, 4), of="image")
    compiled = torch.compile(model, backend=backend, fullgraph=True)  # raises at a graph break
    assert torch.allclose(compiled(plain(batch)), model(plain(batch)))
    torch._dynamo.reset()
    explained = torch._dynamo.explain(model)(plain(batch))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_compiled_model_gets_plain_tensors_and_is_compiled_once():
    compiled = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append([type(x) for x in inputs])
        return graph.forward

    model = torch.compile(nn.Linear(4, 2), backend=count, fullgraph=True)
    for i in range(3):
        model(plain(TensorSeries(torch.zeros(2, 4), unit=i)))
    assert len(compiled) == 1
    assert torch.Tensor in compiled[0]
    assert TensorSeries not in compiled[0]


@pytest.mark.parametrize(
    "typed", [TensorSeries(torch.rand(2, 4)), TensorCategory([[1, 0, 3, 2]])], ids=["floats", "indices"]
)
def test_a_compiled_model_that_is_given_typed_tensors_has_no_graph_break(typed: SemanticTensor):
    def double(x: torch.Tensor) -> torch.Tensor:
        return (x + x).cumsum(-1)

    result = torch.compile(double, backend="eager", fullgraph=True)(typed)
    assert type(result) is torch.Tensor  # compiled code works on plain tensors
    assert torch.equal(result, double(plain(typed)))
