"""Counter-based randomness: a draw is a function of its coordinates, the same wherever it is computed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.core.randomness import Draw, mix64, mix64_int, mix64_tensor, name_key, sample_keys, signed

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
