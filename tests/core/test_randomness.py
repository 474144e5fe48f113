"""Counter-based randomness: a draw is a function of its coordinates, the same wherever it is computed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.core.randomness import Draw, mix64, mix64_int, mix64_tensor, name_key, sample_keys, signed
from dist_ai.errors import ConfigError

properties = settings(deadline=None, max_examples=200, derandomize=True)

GOLDEN = 0x9E37_79B9_7F4A_7C15
EDGES = [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1, GOLDEN]

# Critical values of chi-square at p = 1e-6: a fixed seed makes the tests repeatable, this makes them meaningful.
CHI2_15, CHI2_255 = 57.0, 376.0


def chi_square(counts: np.ndarray, expected: float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


# ------------------------------------------------------------------------------------ the hash


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        # The reference implementation's first outputs (Vigna's splitmix64.c).
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]),
        (0, [16294208416658607535, 7960286522194355700, 487617019471545679]),
    ],
)
def test_it_is_the_finaliser_of_splitmix64(seed: int, outputs: list[int]):
    assert [mix64_int(seed + (i + 1) * GOLDEN) for i in range(len(outputs))] == outputs


@properties
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_python_numpy_and_torch_agree_bit_for_bit(numbers: list[int]):
    numbers += EDGES
    expected = [mix64_int(x) for x in numbers]
    assert mix64(np.array(numbers, dtype=np.uint64)).tolist() == expected
    as_int64 = torch.tensor([signed(x) for x in numbers], dtype=torch.int64)
    assert mix64_tensor(as_int64).tolist() == [signed(x) for x in expected]
    assert mix64_tensor(as_int64).numpy().view(np.uint64).tolist() == expected


def test_no_two_of_a_million_numbers_share_a_hash():
    consecutive = np.arange(2**20, dtype=np.uint64)
    assert len(np.unique(mix64(consecutive))) == 2**20
    assert len(np.unique(mix64(consecutive << np.uint64(44)))) == 2**20


def test_numbers_beyond_64_bits_and_below_zero_wrap():
    assert mix64_int(2**64 + 5) == mix64_int(5)
    assert mix64_int(-1) == mix64_int(2**64 - 1)


def test_flipping_one_input_bit_flips_half_of_the_output_bits():
    x = mix64(np.arange(1, 2001, dtype=np.uint64))
    for bit in range(64):
        flipped = np.bitwise_count(mix64(x) ^ mix64(x ^ np.uint64(1 << bit)))
        assert 31.0 < flipped.mean() < 33.0, bit  # 32 expected, deviation of the mean 0.09


def test_signed_keeps_the_bits():
    assert [signed(x) for x in (0, 1, 2**63 - 1, 2**63, 2**64 - 1)] == [0, 1, 2**63 - 1, -(2**63), -1]


def test_the_key_of_a_name_is_the_same_in_every_process():
    code = "from dist_ai.core.randomness import name_key; print(name_key('0:Flip'), name_key('ü'))"
    keys = f"{name_key('0:Flip')} {name_key('ü')}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == keys
    names = [f"{place}:{name}" for place in range(100) for name in ("Flip", "Resize", "Rotate", "", "Flip ")]
    assert len({name_key(name) for name in names}) == len(names)


# ------------------------------------------------------------------------------------ draws


def test_the_draws_of_this_version_are_those_of_the_next():
    # Frozen: resuming a run with a newer version must draw what the older one would have drawn.
    draw = Draw(seed=1, epoch=2, samples=3).at("item_tfms").at("0:Flip")
    assert [draw.bits(), draw.bits()] == [17760157880969205222, 16971330840909596152]
    assert sample_keys(seed=42, epoch=0, samples=[0, 1]).tolist() == [7753779381277867893, 2533869666814348328]


@properties
@given(
    st.integers(0, 2**63),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 2**62), min_size=1, max_size=8),
    st.sampled_from(["Flip", "Resize"]),
    st.data(),
)
def test_a_sample_draws_the_same_whatever_batch_it_is_in(seed, epoch, samples, place, data):
    batch = Draw(seed=seed, epoch=epoch, samples=samples).at(place)
    together = [batch.uniform(-3, 5) for _ in range(3)]
    i = data.draw(st.integers(0, len(samples) - 1))
    alone = Draw(seed=seed, epoch=epoch, samples=samples[i]).at(place)
    assert [alone.uniform(-3, 5) for _ in range(3)] == [row[i] for row in together]


def test_one_sample_gives_python_numbers_and_a_batch_gives_arrays():
    for one in (5, np.int64(5), np.array(5)):
        draw = Draw(seed=0, epoch=0, samples=one)
        assert draw.single
        assert type(draw.bits()) is int
        assert type(draw.uniform()) is float
        assert type(draw.bernoulli(0.5)) is bool
    for batch in ([5, 6, 7], np.array([5, 6, 7])):
        draw = Draw(seed=0, epoch=0, samples=batch)
        assert not draw.single
        assert (draw.bits().dtype, draw.uniform().dtype, draw.bernoulli(0.5).dtype) == (np.uint64, np.float64, bool)
        assert draw.uniform().shape == (3,)
    assert Draw(seed=0, epoch=0, samples=np.int64(5)).bits() == Draw(seed=0, epoch=0, samples=5).bits()


def test_every_coordinate_changes_the_draw():
    base = {"seed": 1, "epoch": 1, "samples": 1}
    draws = [Draw(**base)] + [Draw(**{**base, name: 2}) for name in base]
    draws += [Draw(**base).at(name) for name in ("Flip", "Crop")] + [Draw(**base).at("Flip").at("Flip")]
    assert len({draw.bits() for draw in draws}) == len(draws)


def test_seed_epoch_and_sample_cannot_be_traded_for_one_another():
    keys = {
        int(sample_keys(seed=seed, epoch=epoch, samples=sample)[0])
        for seed in range(12)
        for epoch in range(12)
        for sample in range(12)
    }
    assert len(keys) == 12**3


def test_restart_begins_again_and_leaves_the_original_where_it_was():
    draw = Draw(seed=0, epoch=0, samples=1).at("Crop")
    first, second = draw.uniform(), draw.uniform()
    again = draw.restart()
    assert [again.uniform(), again.uniform()] == [first, second]
    assert draw.uniform() not in (first, second)


def test_another_place_begins_with_its_first_draw_wherever_the_original_is():
    draw = Draw(seed=0, epoch=0, samples=1)
    before = draw.at("Flip").bits()
    draw.bits()
    assert draw.at("Flip").bits() == before


def test_draws_are_uniform_over_samples_over_calls_and_over_epochs():
    n = 40_000
    over_samples = Draw(seed=3, epoch=0, samples=np.arange(n)).uniform()
    draw = Draw(seed=3, epoch=0, samples=0)
    over_calls = np.array([draw.uniform() for _ in range(n)])
    over_epochs = np.array([Draw(seed=3, epoch=epoch, samples=0).uniform() for epoch in range(n // 4)])
    for values in (over_samples, over_calls, over_epochs):
        assert 0 <= values.min() < values.max() < 1
        counts = np.histogram(values, bins=256, range=(0, 1))[0]
        assert chi_square(counts, len(values) / 256) < CHI2_255


def test_consecutive_draws_of_a_sample_and_draws_of_neighbours_are_unrelated():
    draw = Draw(seed=0, epoch=0, samples=np.arange(40_000))
    first, second = draw.uniform(), draw.uniform()
    for a, b in ((first, second), (first[:-1], first[1:]), (first[::2], first[1::2])):
        counts = np.histogram2d(a, b, bins=4, range=[[0, 1], [0, 1]])[0]
        assert chi_square(counts, len(a) / 16) < CHI2_15
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / len(a) ** 0.5


def test_uniform_stays_in_its_range():
    draw = Draw(seed=0, epoch=0, samples=np.arange(10_000))
    values = draw.uniform(-0.25, 0.75)
    assert -0.25 <= values.min() < -0.24
    assert 0.74 < values.max() < 0.75
    assert draw.uniform(2.0, 2.0).tolist() == [2.0] * 10_000


def test_a_bernoulli_draw_is_true_as_often_as_asked():
    samples = np.arange(100_000)
    assert not Draw(seed=0, epoch=0, samples=samples).bernoulli(0).any()
    assert Draw(seed=0, epoch=0, samples=samples).bernoulli(1).all()
    for p in (0.1, 0.5, 0.9):
        share = Draw(seed=0, epoch=0, samples=samples).bernoulli(p).mean()
        assert share == pytest.approx(p, abs=5 * (p * (1 - p) / len(samples)) ** 0.5)


def test_a_numpy_generator_is_of_one_sample_and_repeats():
    draw = Draw(seed=0, epoch=0, samples=9).at("Beta")
    first, second = draw.generator().beta(2, 5), draw.generator().beta(2, 5)
    assert first != second
    assert draw.restart().generator().beta(2, 5) == first
    with pytest.raises(TypeError, match=r"generator\(\) draws for one sample, and these are the draws of a batch"):
        Draw(seed=0, epoch=0, samples=[9]).generator()


def test_drawing_touches_no_global_generator():
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    draw = Draw(seed=0, epoch=0, samples=0)
    draw.uniform(), draw.generator().normal()
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


# ------------------------------------------------------------------------------------ distributions


def kolmogorov(values: np.ndarray, distribution: Callable[[np.ndarray], np.ndarray]) -> float:
    """The Kolmogorov-Smirnov statistic, scaled: above 2.7 once in a million."""
    values, n = np.sort(values), len(values)
    expected = distribution(values)
    upper = (np.arange(1, n + 1) / n - expected).max()
    lower = (expected - np.arange(n) / n).max()
    return float(max(upper, lower) * n**0.5)


def normal_distribution(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + torch.erf(torch.from_numpy(x / 2**0.5)).numpy())


N = 40_000


def many(place: str = "") -> Draw:
    return Draw(seed=5, epoch=1, samples=np.arange(N)).at(place)


# Every distribution, as it is drawn for one sample or for several.
DRAWS: dict[str, Callable[[Draw], Any]] = {
    "bits": lambda draw: draw.bits(),
    "uniform": lambda draw: draw.uniform(-1, 3),
    "bernoulli": lambda draw: draw.bernoulli(0.3),
    "integers": lambda draw: draw.integers(-3, 4),
    "normal": lambda draw: draw.normal(1, 2),
    "beta": lambda draw: draw.beta(0.4, 0.7),
    "choice": lambda draw: draw.choice([0.5, 1.5, 2.5]),
    "weighted choice": lambda draw: draw.choice([0, 1, 2], p=[1, 0, 2]),
    "permutation": lambda draw: draw.permutation(5),
    "bits of a shape": lambda draw: draw.bits((2, 3)),
    "uniform of a shape": lambda draw: draw.uniform(size=(2, 3)),
    "bernoulli of a shape": lambda draw: draw.bernoulli(0.5, size=(2, 3)),
    "integers of a shape": lambda draw: draw.integers(0, 9, size=(4,)),
    "normal of a shape": lambda draw: draw.normal(size=(2, 3)),
    "uniform tensor": lambda draw: draw.uniform_tensor((2, 3)),
    "normal tensor": lambda draw: draw.normal_tensor((2, 3)),
}


@pytest.mark.parametrize("name", DRAWS)
@settings(properties, max_examples=30)
@given(
    seed=st.integers(0, 2**63),
    samples=st.lists(st.integers(0, 2**62), min_size=1, max_size=9, unique=True),
    data=st.data(),
)
def test_a_distribution_draws_the_same_for_a_sample_alone_and_in_any_batch(
    name: str, seed: int, samples: list[int], data: st.DataObject
):
    def draws(of: int | list[int]) -> list[Any]:
        draw = Draw(seed=seed, epoch=3, samples=of).at("Crop")
        return [DRAWS[name](draw), DRAWS[name](draw)]

    i = data.draw(st.integers(0, len(samples) - 1))
    for alone, together in zip(draws(samples[i]), draws(samples), strict=True):
        # Logarithms and cosines may be rounded otherwise in another place of an array.
        np.testing.assert_allclose(np.asarray(together[i]), np.asarray(alone), rtol=1e-5, atol=1e-6)
        if name not in ("normal", "normal of a shape", "normal tensor", "beta"):
            assert np.array_equal(together[i], alone)


@pytest.mark.parametrize("name", DRAWS)
def test_any_number_of_ranks_draws_what_one_does(name: str):
    samples = np.arange(13) * 7
    whole = np.asarray(DRAWS[name](Draw(seed=1, epoch=2, samples=samples)))
    for world_size in (2, 3, 4):
        for rank in range(world_size):
            mine = DRAWS[name](Draw(seed=1, epoch=2, samples=samples[rank::world_size]))
            np.testing.assert_allclose(np.asarray(mine), whole[rank::world_size], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DRAWS)
def test_each_draw_is_another_and_begins_again_with_restart(name: str):
    draw = Draw(seed=1, epoch=0, samples=range(20)).at("Crop")
    first, second = np.asarray(DRAWS[name](draw)), np.asarray(DRAWS[name](draw))
    assert not np.array_equal(first, second)
    assert np.array_equal(DRAWS[name](draw.restart()), first)


def test_the_distributions_of_this_version_are_those_of_the_next():
    draw = Draw(seed=1, epoch=2, samples=3).at("0:Flip")
    assert draw.bits((2,)).tolist() == [6688780401739112594, 3229751656988176169]
    assert draw.integers(0, 1000) == 632
    assert draw.normal() == pytest.approx(-1.7698766154588292, rel=1e-12)
    assert draw.beta(0.4, 0.4) == pytest.approx(0.15081284596307082, rel=1e-9)
    assert draw.permutation(6).tolist() == [2, 3, 5, 4, 0, 1]
    assert draw.choice("abc", p=[1, 2, 3]) == "c"
    assert draw.uniform_tensor((1,)).item() == 0.5362298488616943


def test_one_sample_gets_pythons_numbers_and_a_batch_arrays():
    one, batch = Draw(seed=0, epoch=0, samples=5), Draw(seed=0, epoch=0, samples=[5, 6, 7])
    assert [type(one.normal()), type(one.integers(0, 3)), type(one.beta(1, 2))] == [float, int, float]
    assert one.choice(["a", "b"]) in ("a", "b")
    assert one.permutation(4).shape == (4,)
    assert one.normal(size=(2, 2)).shape == (2, 2)
    assert (one.uniform_tensor((2, 2)).shape, one.normal_tensor(()).shape) == ((2, 2), ())
    assert [batch.normal().dtype, batch.integers(0, 3).dtype, batch.beta(1, 2).dtype] == [float, np.int64, float]
    assert batch.choice(["a", "b"]).shape == (3,)
    assert batch.permutation(4).shape == (3, 4)
    assert batch.uniform(size=(2, 2)).shape == (3, 2, 2)
    assert (batch.uniform_tensor((2, 2)).shape, batch.uniform_tensor((2,)).dtype) == ((3, 2, 2), torch.float32)


@pytest.mark.parametrize("name", DRAWS)
def test_a_rank_without_samples_draws_nothing(name: str):
    assert len(DRAWS[name](Draw(seed=0, epoch=0, samples=np.arange(0)))) == 0


def test_numbers_of_a_shape_are_uniform_and_unrelated():
    values = Draw(seed=3, epoch=0, samples=np.arange(100)).uniform(size=(20, 20))
    assert chi_square(np.histogram(values, bins=256, range=(0, 1))[0], values.size / 256) < CHI2_255
    for a, b in ((values[:, 1:], values[:, :-1]), (values[:, :, 1:], values[:, :, :-1]), (values[1:], values[:-1])):
        counts = np.histogram2d(a.ravel(), b.ravel(), bins=4, range=[[0, 1], [0, 1]])[0]
        assert chi_square(counts, a.size / 16) < CHI2_15


def test_normal_draws_are_normal():
    assert kolmogorov(many().normal(), normal_distribution) < 2.7
    assert kolmogorov((many().normal(3, 0.5) - 3) / 0.5, normal_distribution) < 2.7
    assert kolmogorov(Draw(seed=2, epoch=0, samples=4).normal(size=(N,)), normal_distribution) < 2.7
    pairs = many().normal(size=(2,))
    assert abs(np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1]) < 5 / N**0.5


BETAS = {
    (1.0, 1.0): lambda x: x,
    (0.5, 0.5): lambda x: 2 / np.pi * np.arcsin(np.sqrt(x)),
    (2.0, 2.0): lambda x: 3 * x**2 - 2 * x**3,
    (0.2, 1.0): lambda x: x**0.2,
    (1.0, 5.0): lambda x: 1 - (1 - x) ** 5,
    (3.0, 2.0): lambda x: 4 * x**3 - 3 * x**4,
}


@pytest.mark.parametrize(("a", "b"), BETAS)
def test_beta_draws_are_beta_distributed(a: float, b: float):
    values = many(f"{a} {b}").beta(a, b)
    assert values.min() >= 0
    assert values.max() <= 1
    assert kolmogorov(values, BETAS[a, b]) < 2.7


def test_the_rejection_behind_beta_draws_is_exact():
    # Ten times as many as elsewhere: an error in what is rejected shows in the third digit only.
    values = np.concatenate([many(f"part {i}").beta(1, 5) for i in range(10)])
    assert kolmogorov(values, BETAS[1.0, 5.0]) < 2.7


@pytest.mark.parametrize(("a", "b"), [(0.4, 0.4), (0.01, 0.02), (50.0, 2.0), (1000.0, 1000.0)])
def test_beta_draws_have_the_mean_and_the_variance_of_theirs(a: float, b: float):
    values = many(f"{a} {b}").beta(a, b)
    variance = a * b / ((a + b) ** 2 * (a + b + 1))
    assert values.mean() == pytest.approx(a / (a + b), abs=5 * (variance / N) ** 0.5)
    assert values.var() == pytest.approx(variance, rel=0.05)


def test_integers_are_as_likely_each():
    counts = np.bincount(many().integers(-3, 13) + 3, minlength=16)
    assert len(counts) == 16
    assert chi_square(counts, N / 16) < CHI2_15
    assert set(many().integers(7, 8)) == {7}
    large = many().integers(2**40, 2**40 + 2**45)
    assert large.min() >= 2**40
    assert large.max() < 2**40 + 2**45


def test_a_choice_is_as_likely_as_asked():
    counts = np.bincount(many().choice(np.arange(16)), minlength=16)
    assert chi_square(counts, N / 16) < CHI2_15
    weighted = many().choice([0, 1, 2, 3], p=[1, 0, 3, 0])
    assert set(weighted) == {0, 2}
    assert (weighted == 2).mean() == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / N) ** 0.5)


def test_permutations_are_as_likely_each_and_of_each_sample_by_itself():
    orders = many().permutation(3)
    assert (np.sort(orders, axis=1) == np.arange(3)).all()
    counts = np.bincount(orders @ np.array([9, 3, 1]))
    counts = counts[counts > 0]
    assert len(counts) == 6
    assert chi_square(counts, N / 6) < 40  # 5 degrees of freedom, p = 1e-6 is 35.9


def test_tensors_are_uniform_and_normal():
    uniform = many().uniform_tensor((2,))
    assert 0 <= uniform.min() < uniform.max() < 1
    assert chi_square(np.histogram(uniform, bins=256, range=(0, 1))[0], 2 * N / 256) < CHI2_255
    normal = many().normal_tensor((2,)).double().numpy()
    assert kolmogorov(normal.ravel(), normal_distribution) < 2.7
    assert abs(np.corrcoef(normal[:, 0], normal[:, 1])[0, 1]) < 5 / N**0.5


def test_a_tensor_has_the_leading_bits_of_the_array():
    draw = Draw(seed=0, epoch=0, samples=[3, 2**40])
    array, tensor = draw.uniform(size=(4, 5)), draw.restart().uniform_tensor((4, 5))
    assert torch.equal(tensor, torch.from_numpy(np.floor(array * 2**24) / 2**24).float())


@pytest.mark.gpu
def test_a_tensor_is_the_same_on_a_device_and_does_not_wait_for_it():
    draw = Draw(seed=0, epoch=0, samples=range(8))
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = draw.uniform_tensor((3, 32, 32), device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.cpu(), draw.restart().uniform_tensor((3, 32, 32)))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda draw: draw.integers(3, 3), "integers(3, 3): no integer is at least 3 and less than 3"),
        (lambda draw: draw.beta(0, 1), "beta(0, 1): expected two positive numbers"),
        (lambda draw: draw.beta(1, float("nan")), "beta(1, nan): expected two positive numbers"),
        (lambda draw: draw.choice([]), "choice([]): expected at least one option"),
        (lambda draw: draw.choice("ab", p=[1]), "choice(p=[1]): expected 2 probabilities, one for each option"),
        (lambda draw: draw.choice("ab", p=[1, -1]), "choice(p=[1, -1]): expected 2 probabilities"),
        (lambda draw: draw.choice("ab", p=[0, 0]), "choice(p=[0, 0]): expected 2 probabilities"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(ask: Callable[[Draw], Any], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ask(Draw(seed=0, epoch=0, samples=[1]))


def test_samples_that_are_on_a_device_draw_what_they_do_on_the_host() -> None:
    numbers = [3, -7, 2**40]
    here, there = (Draw(seed=5, epoch=2, samples=each).at("place") for each in (numbers, torch.tensor(numbers)))
    for _ in range(2):  # the second draw too
        assert here.integers(1, 1000, size=(2, 3)).tolist() == there.integers_tensor(1, 1000, (2, 3)).tolist()
    assert torch.equal(here.uniform_tensor((4,)), there.uniform_tensor((4,)))
    with pytest.raises(TypeError, match="the samples are on a device; draw with uniform_tensor, normal_tensor or"):
        there.uniform()
