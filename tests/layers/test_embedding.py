"""Embeddings of categories, outputs in a range, and hidden layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.errors import ConfigError
from dist_ai.layers import EmbeddingTables, SigmoidRange, embedding, embedding_size, hidden_layers
from dist_ai.tabular import FTTransformer


def test_embeddings_begin_small_and_within_two_deviations() -> None:
    torch.manual_seed(0)
    weight = embedding(1000, 20, std=0.05).weight
    assert weight.abs().max() <= 0.1
    assert weight.std().item() == pytest.approx(0.044, abs=0.002)  # of a normal distribution cut at two deviations


def test_the_rule_of_sizes_is_fastai_s() -> None:
    assert [embedding_size(n) for n in (2, 10, 100, 1000, 10**7)] == [2, 6, 21, 77, 600]


def test_tables_look_each_column_up_in_its_own_table() -> None:
    tables = EmbeddingTables([(3, 2), (5, 4)])
    cats = torch.tensor([[2, 4], [0, 1]])
    expected = torch.cat([tables.tables[0].weight[cats[:, 0]], tables.tables[1].weight[cats[:, 1]]], 1)
    assert torch.equal(tables(cats), expected)
    assert EmbeddingTables([])(torch.empty(3, 0, dtype=torch.int64)).shape == (3, 0)
    with pytest.raises(ConfigError, match="column 1 has 0 categories of 4 numbers each"):
        EmbeddingTables([(3, 2), (0, 4)])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            [3, 2],
            r"column 0 of the sizes of embeddings has 3: expected \(categories, numbers\) of each column, such as",
        ),
        ([(3, 2), (4,)], r"column 1 of the sizes of embeddings has \(4,\): expected"),
        ([(3, 2.5)], r"column 0 of the sizes of embeddings has \(3, 2.5\): expected"),
        ([(3, "2")], r"has \(3, '2'\): expected"),
        (["32"], r"has '32': expected"),
        ({"job": 3}, r"sizes of embeddings \{'job': 3\}: expected .* get_emb_sz makes them"),
        (7, "sizes of embeddings 7: expected"),
    ],
)
def test_sizes_that_are_no_pairs_are_named(sizes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingTables(sizes)
    with pytest.raises(ConfigError, match=message):
        FTTransformer(sizes, 1, 1)


def test_sparse_gradients_are_of_the_rows_of_the_batch() -> None:
    table = embedding(9, 2, sparse=True)
    table(torch.tensor([3, 3, 7])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.coalesce().indices().tolist() == [[3, 7]]


def test_outputs_stay_in_their_range() -> None:
    assert SigmoidRange(-1, 3)(torch.tensor([-1000.0, 0.0, 1000.0])).tolist() == [-1.0, 1.0, 3.0]
    assert repr(SigmoidRange(0, 5)) == "SigmoidRange(0, 5)"


def test_hidden_layers_are_in_the_order_asked_for() -> None:
    kinds = [type(layer) for layer in hidden_layers(3, [5, 4], ps=[0.1, 0])]
    assert [kind.__name__ for kind in kinds] == [
        *("Linear", "ReLU", "BatchNorm1d", "SeededDropout"),
        *("Linear", "ReLU", "BatchNorm1d"),
    ]
    first = hidden_layers(3, [5], lin_first=False, act="gelu")
    assert [type(layer) for layer in first] == [nn.BatchNorm1d, nn.Linear, nn.GELU]
    assert nn.Sequential(*first)(torch.rand(2, 3)).shape == (2, 5)
    assert hidden_layers(3, []) == []
    # BatchNorm has a bias: that of the linear map beside it would add nothing.
    assert [layer.bias is None for layer in (*first, *hidden_layers(3, [5])) if isinstance(layer, nn.Linear)] == [
        True
    ] * 2
    assert [layer.bias is None for layer in hidden_layers(3, [5], use_bn=False)[:1]] == [False]
