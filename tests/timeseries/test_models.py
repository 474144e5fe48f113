"""The architectures: their shapes, their blindness to padding, how they are built again, and MiniRocket's features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries import architectures, forecasters
from dist_ai.timeseries.models import MiniRocket, forecast_model, series_model, series_splitter

SMALL: dict[str, dict[str, Any]] = {
    "MiniRocket": {"num_features": 168},
    "TST": {"width": 8, "heads": 2, "hidden": 8, "layers": 2},
    "PatchTST": {"width": 8, "heads": 2, "hidden": 8, "layers": 2, "patch": 4, "stride": 4},
    "InceptionTime": {"filters": 4},
}


def model_of(arch: str, *, padded: bool = False, length: int = 24) -> Any:
    torch.manual_seed(0)
    model = series_model(arch, 3, length, 5, padded=padded, **SMALL.get(arch, {})).double()
    if arch == "MiniRocket":
        model.body.fit(torch.randn(20, 3, length, dtype=torch.float64))
    return model


@pytest.mark.parametrize("arch", list(architectures))
def test_a_model_gives_a_number_for_each_output_and_learns_everywhere(arch: str) -> None:
    model = model_of(arch)
    out = model(torch.randn(4, 3, 24, dtype=torch.float64))
    assert out.shape == (4, 5)
    out.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert sum(len(group) for group in series_splitter(model)) == len(list(model.parameters()))


@pytest.mark.parametrize("arch", list(architectures))
def test_what_a_model_says_does_not_depend_on_how_far_a_series_was_padded(arch: str) -> None:
    model = model_of(arch, padded=True, length=40)
    model(torch.randn(8, 3, 40, dtype=torch.float64))  # so that BatchNorm has something to subtract
    model.eval()
    x = torch.randn(2, 3, 20, dtype=torch.float64)
    padded = [torch.nn.functional.pad(x, (0, more), value=float("nan")) for more in (0, 4, 20)]
    for other in padded[1:]:
        torch.testing.assert_close(model(other), model(padded[0]), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(model(torch.nn.functional.pad(x, (0, 4))), model(x))  # zeros are steps


@pytest.mark.parametrize("arch", ["FCN", "ResNet", "InceptionTime", "LSTM_FCN", "TST"])
def test_a_model_computes_in_bf16(arch: str) -> None:
    model = model_of(arch).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(4, 3, 24)).isfinite().all()


@pytest.mark.parametrize("normalize", ["auto", "window", "last", None])
@pytest.mark.parametrize("arch", list(forecasters))
def test_a_forecaster_gives_each_target_its_steps_with_and_without_a_known_future(arch: str, normalize: Any) -> None:
    small = {"width": 8, "heads": 2, "hidden": 8, "layers": 1} if arch == "PatchTST" else {}
    for known in (0, 2):
        model = forecast_model(arch, 3, 30, 7, [2, 0], known, normalize=normalize, **small)
        future = torch.randn(4, known, 7) if known else None
        assert model(torch.randn(4, 3, 30), future).shape == (4, 2, 7)


@pytest.mark.parametrize("arch", list(forecasters))
def test_what_works_in_the_scale_of_a_window_follows_its_level(arch: str) -> None:
    small = {"width": 8, "heads": 2, "hidden": 8, "layers": 1} if arch == "PatchTST" else {}
    model = forecast_model(arch, 1, 30, 5, [0], normalize="window", **small).double().eval()
    past = torch.randn(4, 1, 30, dtype=torch.float64)
    torch.testing.assert_close(model(1000 + 3 * past), 1000 + 3 * model(past), rtol=1e-4, atol=1e-3)


def test_minirockets_features_are_what_the_paper_says() -> None:
    model = MiniRocket(1, 30, num_features=84 * 8)
    assert model.dilations == [1, 2, 3]
    assert sum(model.counts) == 8
    assert (model.kernels.sum(1) == 0).all()
    assert len({tuple(row.tolist()) for row in model.kernels}) == 84
    x = torch.randn(6, 1, 30)
    model.fit(x)
    features = model.features(x)
    assert features.shape == (6, 84 * 8)
    assert 0 <= float(features.min()) <= float(features.max()) <= 1
    # The first kernel, by hand: dilation 1, padded, its share above its first bias.
    by_hand = torch.nn.functional.conv1d(x, model.kernels[:1, None], padding=4)
    share = (by_hand[:, 0] > model.biases[0]).float().mean(-1)
    torch.testing.assert_close(features[:, 0], share)


def test_minirocket_does_not_care_for_the_level_of_a_series_within_its_border() -> None:
    model = MiniRocket(1, 40, num_features=84)
    x = torch.randn(5, 1, 40, dtype=torch.float64)
    model.double().fit(x)
    within = [k for k in range(84) if k % 2]  # these are looked at only where the kernel lies within
    torch.testing.assert_close(model.features(x + 7)[:, within], model.features(x)[:, within])


def test_minirocket_without_biases_and_of_too_short_series_says_so() -> None:
    with pytest.raises(
        DataError, match="MiniRocket has no biases yet; call fit with training series, as ts_learner does"
    ):
        MiniRocket(1, 30)(torch.randn(2, 1, 30), None)
    with pytest.raises(ConfigError, match=r"MiniRocket of series of 8 steps .*; expected at least 9 steps"):
        MiniRocket(1, 8)


@pytest.mark.parametrize(
    ("arch", "options", "said"),
    [
        ("Inception", {}, "no architecture named 'Inception'.*; there are FCN, GRU"),
        ("TST", {"width": 10, "heads": 4}, "width=10 cannot be dealt out to heads=4"),
        ("FCN", {"depth": 3}, "FCN cannot be made: .*'depth'"),
        ("InceptionTime", {"widths": [4]}, r"InceptionTime\(widths=\[4\]\): expected odd widths"),
        ("LSTM", {"cell": "LTSM"}, "cell='LTSM': expected 'LSTM' or 'GRU'"),
        ("FCN", {"filters": [8, 8]}, r"filters=\[8, 8\] and widths=\(7, 5, 3\): expected as many of each"),
        ("FCN", {"filters": 8}, "filters=8: expected sizes, whole numbers of at least 1"),
        ("ResNet", {"filters": [8, 0]}, r"filters=\[8, 0\]: expected sizes, whole numbers of at least 1"),
        ("InceptionTime", {"filters": 0}, "filters=0: expected a whole number of at least 1"),
        ("InceptionTime", {"depth": 2.5}, "depth=2.5: expected a whole number of at least 1"),
        ("GRU", {"hidden": 0}, "hidden=0: expected a whole number of at least 1"),
        ("LSTM", {"layers": 0}, "layers=0: expected a whole number of at least 1"),
        ("LSTM_FCN", {"hidden": -1}, "hidden=-1: expected a whole number of at least 1"),
        ("TST", {"heads": 0}, "heads=0: expected a whole number of at least 1"),
        ("TST", {"width": "64"}, "width='64': expected a whole number of at least 1"),
        ("TST", {"layers": -1}, "layers=-1: expected a whole number of at least 0"),
        ("PatchTST", {"stride": 0}, "stride=0: expected a whole number of at least 1"),
        ("PatchTST", {"patch": 4.0}, "patch=4.0: expected a whole number of at least 1"),
        ("MiniRocket", {"num_features": "84"}, "num_features='84': expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_made_is_named(arch: str, options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        series_model(arch, 3, 24, 5, **options)


def test_a_series_longer_than_the_transformer_was_made_for_is_named() -> None:
    model = model_of("TST")
    with pytest.raises(DataError, match="a series of 30 tokens, and the model was made for 24 at most"):
        model(torch.randn(2, 3, 30, dtype=torch.float64))


def test_a_forecaster_that_is_none_and_a_scale_that_is_none_are_named() -> None:
    with pytest.raises(ConfigError, match="no forecaster named 'Nlinear'; did you mean 'NLinear'"):
        forecast_model("Nlinear", 1, 30, 5, [0])
    with pytest.raises(ConfigError, match="normalize='mean': expected 'window', 'last' or None"):
        forecast_model("NLinear", 1, 30, 5, [0], normalize="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hidden=0: expected a whole number of at least 1"):
        forecast_model("MLP", 1, 30, 5, [0], hidden=0)
    with pytest.raises(ConfigError, match=r"width=25.0: expected a whole number of at least 1"):
        forecast_model("DLinear", 1, 30, 5, [0], width=25.0)
    with pytest.raises(ConfigError, match=r"DLinear\(width=4\): expected an odd number of steps"):
        forecast_model("DLinear", 1, 30, 5, [0], width=4)
