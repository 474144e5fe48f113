"""Callbacks of a few lines each: short epochs, collected data, frozen statistics, compiled models, dropout, RNNs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import NUM_STEPS, make_data, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import (
    ChannelsLast,
    CollectData,
    Compile,
    FetchPreds,
    FreezeBatchNorm,
    MCDropout,
    ResetRNN,
    RNNRegularizer,
    ShortEpoch,
    on,
)
from dist_ai.data import DataLoader, DataLoaders, IterableLoader, TensorData
from dist_ai.errors import ConfigError, DataError, UnknownLengthError
from dist_ai.layers import SeededDropout

# ------------------------------------------------------------------------------------------------ short epochs


@pytest.mark.parametrize(
    ("pct", "short_valid", "steps", "batches"),
    [(0.01, True, 1, 1), (0.6, True, 2, 2), (0.5, False, 2, 3), (1.0, True, 3, 3)],
)
def test_epochs_end_after_a_share_of_their_steps(pct: float, short_valid: bool, steps: int, batches: int) -> None:
    seen = []
    look = on("after_batch", lambda learn: seen.append(learn.state.training))
    learn = make_learner(cbs=[ShortEpoch(pct, short_valid=short_valid), look])
    learn.fit(2)
    assert len(learn.recorder.losses) == 2 * steps
    assert seen.count(False) == 2 * batches
    assert [row["epoch"] for row in learn.recorder.epochs] == [0, 1]


def test_an_epoch_of_unknown_length_cannot_be_cut() -> None:
    x, y = make_data()
    stream = IterableLoader(lambda: zip(x, y, strict=True), 4, num_workers=0, split_idx=0)
    with pytest.raises(UnknownLengthError, match="ShortEpoch needs to know how long an epoch is"):
        make_learner(dls=DataLoaders(stream), cbs=ShortEpoch()).fit(1)
    with pytest.raises(ConfigError, match=r"ShortEpoch\(pct=0\)"):
        ShortEpoch(0)


# ------------------------------------------------------------------------------------------------ data and predictions


def test_batches_are_kept_with_what_came_of_them() -> None:
    collect = CollectData()
    learn = make_learner(cbs=collect)
    learn.fit(2)
    assert [each.training for each in collect.data] == ([True] * NUM_STEPS + [False] * 3) * 2
    last = collect.data[-1]
    torch.testing.assert_close(learn.model(last.xb[0]), last.pred)
    assert last.loss == pytest.approx(nn.functional.cross_entropy(last.pred, last.yb[0]).item())
    learn.validate()
    assert len(collect.data) == 3
    few = CollectData(max_n=2)
    make_learner(cbs=few).fit(2)
    assert [each.step for each in few.data] == [0, 1]
    with pytest.raises(ConfigError, match=r"CollectData\(max_n=0\)"):
        CollectData(max_n=0)


def collected() -> int:
    collect = CollectData()
    make_learner(cbs=collect).fit(1)
    return sum(len(each.xb[0]) for each in collect.data if each.training)


def test_each_rank_keeps_its_share(spawn: Any) -> None:
    assert sum(spawn(3, collected)) == collected() == 17


def fetched() -> list[Any]:
    fetch, each = FetchPreds(), []
    learn = make_learner(cbs=[fetch, on("before_epoch", lambda _: each.append(fetch.preds))])
    learn.fit(2)
    assert fetch.preds is not None
    assert torch.equal(fetch.preds[0], learn.get_preds()[0])
    assert not torch.equal(fetch.preds[0], each[1][0])
    return [fetch.preds[0].tolist(), [row["valid_loss"] for row in learn.recorder.epochs]]


def test_predictions_are_fetched_while_training_goes_on(spawn: Any) -> None:
    alone = fetched()
    undisturbed = make_learner()
    undisturbed.fit(2)
    assert alone[1] == [row["valid_loss"] for row in undisturbed.recorder.epochs]
    for rank in spawn(2, fetched):
        torch.testing.assert_close(torch.tensor(rank[0]), torch.tensor(alone[0]), rtol=1e-8, atol=0)


# ------------------------------------------------------------------------------------------------ BatchNorm


def batch_norm_statistics(**options: Any) -> tuple[bool, bool]:
    """Returns whether the statistics changed, and whether the layer's weights did."""
    model = make_model(batch_norm=True)
    if not options:
        model[1].requires_grad_(False)
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    learn = make_learner(dls=make_dls(bs=6), model=model, cbs=FreezeBatchNorm(**options))
    learn.fit(2)
    changed = {name: not torch.equal(value, before[name]) for name, value in model[1].state_dict().items()}
    return changed["running_mean"] or changed["running_var"], changed["weight"]


def test_the_statistics_of_frozen_layers_stay_as_they_are(spawn: Any) -> None:
    assert batch_norm_statistics() == (False, False)
    assert batch_norm_statistics(all_layers=True) == (False, True)
    assert spawn(2, batch_norm_statistics, all_layers=True) == [(False, True)] * 2


# ------------------------------------------------------------------------------------------------ how it computes


def test_images_are_laid_out_with_their_channels_last() -> None:
    images = torch.rand(8, 3, 6, 6, dtype=torch.float64)
    dls = DataLoaders(
        DataLoader(TensorData(images, torch.arange(8) % 3), 4), DataLoader(TensorData(images, torch.arange(8) % 3), 4)
    )

    def fit(*cbs: Any) -> tuple[torch.Tensor, list[bool]]:
        seen: list[bool] = []
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3)).double()
        model[0].register_forward_hook(
            lambda _m, _i, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
        )
        learn = make_learner(dls=dls, model=model, cbs=cbs)
        learn.fit(2)
        assert all(p.is_contiguous() for p in model.parameters())
        return weights_of(model), seen

    usual, channels_last = fit(), fit(ChannelsLast())
    torch.testing.assert_close(channels_last[0], usual[0])
    assert all(channels_last[1])
    assert not any(usual[1])


@pytest.fixture
def _fresh_compiler() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def with_dropout() -> nn.Sequential:
    model = make_model()
    model.insert(2, SeededDropout(0.3))
    return model


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_model_is_compiled_for_the_fit_and_keeps_its_names(tmp_path: Path, backend: str) -> None:
    usual = make_learner(model=with_dropout())
    usual.fit(2)
    compiled = make_learner(model=with_dropout(), cbs=Compile(backend=backend))
    torch._dynamo.utils.counters.clear()
    compiled.fit(2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    torch.testing.assert_close(weights_of(compiled.model), weights_of(usual.model), rtol=1e-8, atol=1e-10)
    assert list(compiled.model.state_dict()) == list(usual.model.state_dict())
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled.get_preds()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before  # it runs as it is written
    usual.load(compiled.save(tmp_path / "saved"))


def dropped_twice() -> list[Any]:
    learn = make_learner(model=with_dropout())
    learn.fit(1)
    usual = learn.get_preds()[0]
    with learn.added_cbs(MCDropout()):
        twice = [learn.get_preds()[0].tolist() for _ in range(2)]
    assert torch.equal(learn.get_preds()[0], usual)
    assert not any(module.training for module in learn.model.modules())
    return [usual.tolist(), *twice]


def test_dropout_is_on_in_validation_with_other_masks_each_time(spawn: Any) -> None:
    usual, first, second = dropped_twice()
    assert usual != first != second != usual
    for rank in spawn(3, dropped_twice):
        for mine, alone in zip(rank, (usual, first, second), strict=True):
            torch.testing.assert_close(torch.tensor(mine), torch.tensor(alone), rtol=1e-8, atol=0)


# ------------------------------------------------------------------------------------------------ recurrent networks


class Recurrent(nn.Module):
    """Returns what a language model does, and counts its resets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head, self.num_resets = nn.GRU(1, 5, batch_first=True), nn.Linear(5, 3), 0
        self.double()

    def forward(self, x: torch.Tensor) -> Any:
        raw = self.rnn(x[..., None])[0]
        return self.head(raw[:, -1]), raw, raw * 0.5

    def reset(self) -> None:
        self.num_resets += 1


def regularised() -> list[Any]:
    learn = make_learner(model=Recurrent(), cbs=[RNNRegularizer(alpha=0.5, beta=0.25), ResetRNN()])
    learn.fit(2)
    assert learn.model.num_resets == 2 * 2 + 1
    return [
        learn.recorder.losses,
        [row["valid_loss"] for row in learn.recorder.epochs],
        weights_of(learn.model).tolist(),
    ]


def test_the_loss_has_what_activations_cost_on_any_number_of_ranks(spawn: Any) -> None:
    losses, valid_losses, weights = regularised()
    model, (x, y) = Recurrent(), next(iter(make_dls().train.batches()))[1]
    pred, raw, dropped = model(x)
    cost = 0.5 * dropped.square().mean() + 0.25 * raw.diff(dim=1).square().mean()
    assert losses[0] == pytest.approx(
        (nn.functional.cross_entropy(pred, y) + cost).item(), rel=1e-6
    )  # summed in float32
    assert valid_losses[-1] < 3
    for rank in spawn(3, regularised):
        assert rank[0] == pytest.approx(losses, rel=1e-6)
        assert rank[2] == pytest.approx(weights, rel=1e-4, abs=1e-8)


def test_models_that_are_not_recurrent_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ResetRNN: Sequential has no method reset\(\); leave ResetRNN out"):
        make_learner(cbs=ResetRNN()).fit(1)
    with pytest.raises(
        DataError, match=r"the model returned a Tensor; expected \(prediction, raw outputs, dropped-out"
    ):
        make_learner(cbs=RNNRegularizer()).fit(1)
    with pytest.raises(ConfigError, match=r"RNNRegularizer\(alpha=-1, beta=1.0\): expected 0 or more"):
        RNNRegularizer(-1)


def compiled_and_sharded(backend: str) -> dict[str, Any]:
    """Trains a sharded model as it is and compiled; returns what came of both, and how many graphs were compiled."""
    from dist_ai.distributed.sharded import gather
    from dist_ai.distributed.strategies import FSDP

    graphs: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    found: dict[str, Any] = {}
    for name, cbs in (("plain", []), ("compiled", [Compile(backend=counting if backend == "counting" else backend)])):
        learn = make_learner(strategy=FSDP(min_block_parameters=10), cbs=cbs)
        learn.fit(2)
        weights = gather(learn.model.state_dict())
        found[name] = [learn.recorder.losses, {key: value.tolist() for key, value in weights.items()}]
    return {**found, "graphs": len(graphs)}


@pytest.mark.parametrize("backend", ["counting", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_sharded_model_is_compiled_block_by_block_and_keeps_its_numbers_and_names(spawn: Any, backend: str) -> None:
    for rank in spawn(2, compiled_and_sharded, backend=backend):
        (losses, weights), (compiled_losses, compiled_weights) = rank["plain"], rank["compiled"]
        assert compiled_losses == pytest.approx(losses, rel=1e-9)
        assert list(compiled_weights) == list(weights)
        assert rank["graphs"] > 1 or backend == "inductor"
