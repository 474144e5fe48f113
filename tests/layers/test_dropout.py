"""Dropout whose masks do not depend on how a batch is dealt out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_ai.core.randomness import sample_keys
from dist_ai.errors import ConfigError, DataError
from dist_ai.layers import SeededDropout
from dist_ai.layers.dropout import seed_dropout, seeded_layers

NUM_SAMPLES, WIDTH = 400, 500


def keys(samples: list[int], *, seed: int = 1, epoch: int = 0) -> torch.Tensor:
    return torch.from_numpy(sample_keys(seed=seed, epoch=epoch, samples=samples).view("int64"))


def masks(
    layer: SeededDropout, samples: list[int], *, seed: int = 1, epoch: int = 0, shape: tuple[int, ...] = (WIDTH,)
) -> torch.Tensor:
    """Returns what the layer keeps (True) of each sample's activations."""
    seed_dropout([layer], keys(samples, seed=seed, epoch=epoch))
    return layer(torch.ones(len(samples), *shape)) != 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_what_is_kept_is_one_less_p_and_scaled_to_the_same_mean(p: float) -> None:
    layer = SeededDropout(p)
    seed_dropout([layer], keys(list(range(NUM_SAMPLES))))
    out = layer(torch.ones(NUM_SAMPLES, WIDTH))
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1.0).div(1 - p).item()}
    count = NUM_SAMPLES * WIDTH
    spread = 5 * math.sqrt(p * (1 - p) / count)  # five standard deviations
    assert abs((out != 0).double().mean().item() - (1 - p)) < spread
    # and so for each feature and each sample by itself: no row or column is favoured
    for dim, size in ((0, NUM_SAMPLES), (1, WIDTH)):
        shares = (out != 0).double().mean(dim)
        assert (shares - (1 - p)).abs().max().item() < 5.5 * math.sqrt(p * (1 - p) / size)


def test_masks_of_samples_features_layers_epochs_and_seeds_have_nothing_to_do_with_each_other() -> None:
    samples = list(range(NUM_SAMPLES))
    first = masks(SeededDropout(0.5, "first"), samples)
    others = {
        "layer": masks(SeededDropout(0.5, "second"), samples),
        "epoch": masks(SeededDropout(0.5, "first"), samples, epoch=1),
        "seed": masks(SeededDropout(0.5, "first"), samples, seed=2),
        "sample": first.roll(1, dims=0),
        "feature": first.roll(1, dims=1),
    }
    spread = 5 * 0.5 / math.sqrt(NUM_SAMPLES * WIDTH)
    for name, other in others.items():
        assert abs((first == other).double().mean().item() - 0.5) < spread, name


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=12), st.randoms())
def test_a_sample_has_the_same_mask_in_whatever_batch(samples: list[int], random: object) -> None:
    layer = SeededDropout(0.3, "body.1")
    alone = {sample: masks(layer, [sample], shape=(3, 5))[0] for sample in samples}
    random.shuffle(samples)  # type: ignore[attr-defined]
    for sample, mask in zip(samples, masks(layer, samples, shape=(3, 5)), strict=True):
        assert torch.equal(mask, alone[sample])


def test_whole_samples_are_dropped_or_kept_and_scaled() -> None:
    layer = SeededDropout(0.25, whole_samples=True)
    seed_dropout([layer], keys(list(range(NUM_SAMPLES))))
    for out in (layer(torch.ones(NUM_SAMPLES, 3, 2)), _ordinary(layer)(torch.ones(NUM_SAMPLES, 3, 2))):
        rows = out.flatten(1)
        assert (rows == rows[:, :1]).all()
        assert set(rows[:, 0].tolist()) == {0.0, torch.tensor(4 / 3).item()}
        assert abs((rows[:, 0] != 0).double().mean().item() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / NUM_SAMPLES)
    assert "whole_samples=True" in repr(layer)


def _ordinary(layer: SeededDropout) -> SeededDropout:
    torch.manual_seed(0)
    seed_dropout([layer], None)
    return layer


def test_the_mask_does_not_depend_on_the_type_of_the_activations() -> None:
    layer = SeededDropout(0.5)
    seed_dropout([layer], keys([3, 4]))
    expected = layer(torch.ones(2, WIDTH)) != 0
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        out = layer(torch.ones(2, WIDTH, dtype=dtype))
        assert out.dtype == dtype
        assert torch.equal(out != 0, expected)


def test_in_evaluation_and_with_p_zero_it_is_the_identity() -> None:
    x = torch.randn(2, 3)
    layer = SeededDropout(0.5)
    seed_dropout([layer], keys([0, 1, 2]))  # of another batch, as after training
    assert layer.eval()(x) is x
    assert SeededDropout(0.0)(x) is x


def test_without_keys_it_is_ordinary_dropout() -> None:
    x = torch.ones(50, 40)
    layer = SeededDropout(0.25)
    torch.manual_seed(0)
    got = layer(x)
    torch.manual_seed(0)
    assert torch.equal(got, nn.functional.dropout(x, 0.25))
    seed_dropout([layer], keys(list(range(50))))
    assert torch.equal(layer(x), layer(x))
    seed_dropout([layer], None)
    assert not torch.equal(layer(x), layer(x))


def test_gradients_pass_where_activations_were_kept() -> None:
    layer = SeededDropout(0.75)
    seed_dropout([layer], keys([5, 6]))
    x = torch.ones(2, WIDTH, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())  # 4 where it was kept, 0 where not
    assert set(x.grad.unique().tolist()) == {0.0, 4.0}


def test_rows_that_are_not_the_batch_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(0, 1), SeededDropout(0.5))
    seed_dropout(seeded_layers(model), keys([0, 1]))
    with pytest.raises(DataError) as refused:
        model(torch.ones(2, 3, 4))
    assert str(refused.value) == (
        "SeededDropout '1' got 6 rows for 2 samples: its input's first dimension must be the batch; "
        "use nn.Dropout where it is not"
    )


@pytest.mark.parametrize("p", [1.0, -0.1, 50])
def test_a_share_that_cannot_be_dropped_is_refused(p: float) -> None:
    with pytest.raises(ConfigError) as refused:
        SeededDropout(p)
    assert str(refused.value) == (
        f"SeededDropout(p={p}): expected the share that is dropped, at least 0 and less than 1"
    )


def test_layers_are_told_their_names_in_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), SeededDropout(0.5), nn.Sequential(nn.ReLU(), SeededDropout(0.1)))
    layers = seeded_layers(model)
    assert [layer.name for layer in layers] == ["1", "2.1"]
    assert repr(layers[1]) == "SeededDropout(p=0.1)"
    renamed = SeededDropout(0.5)
    renamed.name = "2.1"
    assert torch.equal(masks(renamed, [0, 1]), masks(SeededDropout(0.5, "2.1"), [0, 1]))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), SeededDropout(0.3), nn.ReLU(), SeededDropout(0.5), nn.Linear(8, 2))


def assert_compiled_is_the_same(backend: str, tol: float) -> None:
    model = make_model()
    layers = seeded_layers(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        seed_dropout(layers, keys([step * 6 + i for i in range(6)]))
        with torch._dynamo.config.patch(error_on_recompile=step > 0):  # new samples must not mean a new compilation
            got, expected = compiled(x), model(x)
        torch.testing.assert_close(got, expected, rtol=tol, atol=tol)
        got_grad, expected_grad = (
            torch.autograd.grad(out.square().sum(), list(model.parameters())) for out in (got, expected)
        )
        torch.testing.assert_close(got_grad, expected_grad, rtol=tol, atol=tol)
    model.eval()
    torch.testing.assert_close(compiled(x), model(x), rtol=tol, atol=tol)
    torch._dynamo.reset()


def test_a_model_with_it_compiles_as_one_graph() -> None:
    assert_compiled_is_the_same("aot_eager", tol=0.0)


@pytest.mark.slow
def test_a_model_with_it_compiles_as_one_graph_of_machine_code() -> None:
    assert_compiled_is_the_same("inductor", tol=1e-6)
