"""Augmentation on the device: one interpolation and one pass over the colours, whatever is listed; each sample by itself."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from dist_ai.core import Draw, Pipeline, Transform
from dist_ai.core.types import TensorCategory
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorMask, TensorPoint
from dist_ai.errors import ConfigError, DataError
from dist_ai.vision import (
    Brightness,
    Contrast,
    Dihedral,
    Flip,
    GaussianBlur,
    GaussianNoise,
    Hue,
    Normalize,
    Posterize,
    RandomErasing,
    RandomResizedCropGPU,
    Rescale,
    Rotate,
    Saturation,
    Shear,
    Solarize,
    Translate,
    View,
    Warp,
    Zoom,
    aug_transforms,
    dihedral_views,
    flip_views,
    imagenet_stats,
    rand_augment,
    trivial_augment,
)
from dist_ai.vision.augment import Coordinates, of_batch, policies, recolour, resample
from dist_ai.vision.augment.homography import Frame, moved
from dist_ai.vision.transforms import ImageToFloat

TRAIN, VALID = 0, 1


def draws(samples: int | list[int], epoch: int = 0) -> Draw:
    numbers = list(range(samples)) if isinstance(samples, int) else samples
    return Draw(seed=1, epoch=epoch, samples=numbers).at("batch_tfms")


def augmented(x: Any, *tfms: Transform, samples: int | list[int], epoch: int = 0) -> Any:
    """Returns a training batch of these samples through transforms."""
    return Pipeline(tfms)(x, draws(samples, epoch), split_idx=TRAIN)


def plain(x: torch.Tensor) -> torch.Tensor:
    return x.as_subclass(torch.Tensor)


def pictures(n: int, height: int, width: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> TensorImage:
    """Returns smooth random images."""
    small = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TensorImage(F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).to(dtype))


def moves(sizes: st.SearchStrategy[int], min_zoom: float) -> st.SearchStrategy[Coordinates]:
    """Returns the moves, of all strengths, to these sizes."""
    return st.one_of(
        st.builds(Flip, st.sampled_from([0.0, 0.5, 1.0]), st.booleans()),
        st.builds(Dihedral, st.just(1.0)),
        st.builds(Rotate, st.floats(0, 180), st.just(0.8)),
        st.builds(Zoom, st.floats(min_zoom, 1), st.floats(1, 2), st.just(0.8)),
        st.builds(Warp, st.floats(0, 0.4), st.just(0.8)),
        st.builds(Shear, st.floats(0, 40), st.just(0.8), st.booleans()),
        st.builds(Translate, st.floats(0, 0.5), st.just(0.8)),
        st.builds(RandomResizedCropGPU, st.tuples(sizes, sizes), st.floats(0.3, 0.9)),
        st.builds(Rescale, st.tuples(sizes, sizes)),
    )


# ------------------------------------------------------------------------------------------------ one interpolation


@settings(deadline=None, max_examples=60)
@given(st.lists(moves(st.integers(10, 40), 0.6), min_size=1, max_size=6), st.integers(20, 40), st.integers(20, 40))
def test_any_list_of_moves_is_one_grid_sample_by_the_product_of_their_matrices(
    tfms: list[Coordinates], height: int, width: int
) -> None:
    x = pictures(3, height, width, dtype=torch.float64)
    calls = []

    def spy(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(args)
        return grid_sample(*args, **options)

    grid_sample = F.grid_sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "grid_sample", spy)
        got = augmented(x, *tfms, samples=3)
    product, at = np.eye(3)[None], Frame(height, width)
    for place, tfm in enumerate(Pipeline(tfms).tfms):
        product = tfm.homography(at, draws(3).at(f"{place}:{type(tfm).__name__}")) @ product  # type: ignore[attr-defined]
        at = tfm.frame_after(at)  # type: ignore[attr-defined]
    assert tuple(got.shape) == (3, 3, *at)
    if all(isinstance(tfm, Flip | Dihedral) for tfm in tfms):
        assert calls == []  # pixels go onto pixels
    else:
        assert 1 <= len(calls) <= 3  # one; or one for each size of average that the three samples need
    y, x_ = np.mgrid[0 : at.height, 0 : at.width] + 0.5
    sources = np.linalg.inv(product)[:, None, None] @ np.stack([x_, y, np.ones_like(x_)], -1)[..., None]
    u, v, w = np.moveaxis(sources[..., 0], -1, 0)
    grid = torch.from_numpy(np.stack([2 * u / w / width - 1, 2 * v / w / height - 1], -1))
    expected = F.grid_sample(plain(x), grid.expand(3, -1, -1, -1), padding_mode="reflection", align_corners=False)
    if len(calls) <= 1 and (not calls or calls[0][0].shape[-2:] == (height, width)):  # nothing was averaged
        torch.testing.assert_close(plain(got), expected, atol=1e-5, rtol=0)


def test_several_kinds_in_any_order_are_one_interpolation_and_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_ai.vision.augment import colour, sampling

    counted: list[str] = []
    for module, name in ((sampling, "resample"), (colour, "recolour")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name: (counted.append(name), real(*a))[1])
    tfms = [Brightness(), Rotate(), Contrast(), *rand_augment(), Zoom(), Hue(), *aug_transforms(size=20), Saturation()]
    augmented(pictures(4, 24, 24), *tfms, samples=4)
    assert counted == ["resample", "recolour"]


@pytest.mark.parametrize(
    "colours", [[Brightness(0.9, 1.0), Contrast(0.6, 1.0)], [Hue(0.5, 1.0), Contrast(0.6, 1.0)], []]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_colours_and_normalisation_in_one_row_are_what_they_are_one_after_the_other(
    colours: list[Transform], dtype: torch.dtype
) -> None:
    x = TensorImage(torch.rand(16, 3, 9, 9, dtype=dtype))
    normalize, given = Normalize(*imagenet_stats), plain(x).clone()
    lit = augmented(x, *colours, samples=16)
    got = augmented(x, *colours, normalize, samples=16)
    assert torch.equal(plain(x), given)
    exact = {"atol": 0.02, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 0, "rtol": 0}
    torch.testing.assert_close(plain(got), plain(normalize(lit)), **exact)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(plain(normalize.decode(got)), plain(lit), atol=1e-6, rtol=0)
        assert not colours or ((lit == 0) | (lit == 1)).any()  # some was cut off, before it was normalised


def test_another_transform_between_two_parts_the_row() -> None:
    @dataclass
    class _Halve(Transform):
        order = 20

        def encodes(self, x: TensorImage) -> Any:
            return x / 2

    x, shift = pictures(2, 8, 8), Translate(0.25, 1.0)
    apart = augmented(x, shift, _Halve(), shift, samples=2)
    by_hand = shift(shift(x, draws(2).at("0:Translate")) / 2, draws(2).at("2:Translate"))
    assert torch.equal(apart, by_hand)


def test_a_move_of_ones_own_is_a_matrix() -> None:
    @dataclass
    class _Drift(Coordinates):
        by: int

        def homography(self, frame: Frame, draw: Draw | None) -> Any:
            of_batch(self, draw)
            return moved(self.by, 0)

    x = pictures(2, 6, 8)
    got = augmented(x, _Drift(2), _Drift(1), samples=2)
    torch.testing.assert_close(plain(got)[..., 3:], plain(x)[..., :-3], atol=1e-6, rtol=0)


def test_neighbours_must_agree_how_they_are_interpolated() -> None:
    message = (
        r"^Rotate\(pad_mode='zeros'\) and Zoom\(pad_mode='reflection'\) stand in one row, which is interpolated once; "
        "give them one pad_mode$"
    )
    with pytest.raises(ConfigError, match=message):
        augmented(pictures(2, 8, 8), Flip(), Rotate(pad_mode="zeros"), Zoom(), samples=2)
    with pytest.raises(ConfigError, match=r"Warp\(mode='cubic'\): expected one of bilinear, bicubic, nearest"):
        Warp(mode="cubic")


@pytest.mark.parametrize("times", [2, 3, 5])
def test_what_shrinks_several_times_is_averaged_first(times: int) -> None:
    noise = TensorImage(torch.rand(2, 3, 12 * times, 10 * times, generator=torch.Generator().manual_seed(0)))
    got = Pipeline([Rescale((12, 10))])(noise, split_idx=VALID)
    torch.testing.assert_close(plain(got), F.avg_pool2d(plain(noise), times), atol=1e-5, rtol=0)


def test_each_sample_is_averaged_by_its_own_shrinking() -> None:
    x = TensorImage(torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    crop = RandomResizedCropGPU(16, min_scale=0.01)
    together = augmented(x, crop, samples=6)
    for i in range(6):
        assert torch.equal(augmented(x[i : i + 1], crop, samples=[i])[0], together[i])


def test_a_batch_without_draws_is_left_or_cut_in_the_middle() -> None:
    x = pictures(2, 12, 20)
    got = Pipeline([*aug_transforms(size=(12, 10), min_scale=0.5), Rotate(45)])(x, split_idx=VALID)
    torch.testing.assert_close(plain(got), plain(x)[..., 5:15], atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------ what goes along


@settings(deadline=None, max_examples=60)
@given(
    st.lists(moves(st.integers(40, 60), 1.0), min_size=1, max_size=3),
    st.floats(14, 26),
    st.floats(14, 26),
    st.integers(0, 99),
)
def test_points_masks_and_boxes_follow_the_image(tfms: list[Coordinates], x: float, y: float, epoch: int) -> None:
    """A bright spot is where its point says, its mask is its bright part, and its box is around that."""
    column, row = torch.arange(40) + 0.5, (torch.arange(40) + 0.5)[:, None]
    far = ((column - x) ** 2 + (row - y) ** 2).sqrt()
    image = TensorImage((1.5 - far / 6).clamp(0, 1)[None, None].double())  # half bright in 6 pixels around it
    sample = (
        image,
        TensorMask((far < 6)[None].long(), codes=["dark", "bright"]),
        TensorPoint([[[x, y]]], canvas_size=(40, 40)),
        TensorBBox([[[x - 6, y - 6, x + 6, y + 6], [0, 0, 0, 0]]], canvas_size=(40, 40)),
        TensorCategory([3]),
    )
    got, mask, point, boxes, label = augmented(sample, *tfms, samples=[7], epoch=epoch)
    height, width = got.shape[-2:]
    assert point.canvas_size == boxes.canvas_size == (height, width) == tuple(mask.shape[-2:])
    assert (mask.codes, label.item(), mask.dtype) == (["dark", "bright"], 3, torch.int64)
    apart = (plain(got)[:, 0] > 0.5) != plain(mask).bool()  # at the border alone, where a pixel is neither
    assert ((plain(got)[:, 0] - 0.5).abs()[apart] < 0.3).all()
    at_x, at_y = plain(point)[0, 0].tolist()
    if 0.5 < at_x < width - 0.5 and 0.5 < at_y < height - 0.5:
        assert plain(got)[0, 0, int(at_y), int(at_x)] > 0.6  # the top of the cone, unless it shrank to a pixel
    left, top, right, bottom = plain(boxes)[0, 0].tolist()
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    if right > left:
        assert left - 0.01 <= min(max(at_x, 0), width) <= right + 0.01
    assert plain(boxes)[0, 1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("layout", ["XYXY", "XYWH", "CXCYWH"])
def test_boxes_of_every_layout_are_mirrored_cut_and_emptied(layout: str) -> None:
    corners = torch.tensor([[[1.0, 2.0, 3.0, 6.0], [8.0, 0.0, 10.0, 4.0], [5.0, 1.0, 5.0, 3.0]]])
    boxes = TensorBBox(tv.convert_bounding_box_format(corners, "XYXY", layout), canvas_size=(8, 10), format=layout)

    @dataclass
    class _ToTheLeft(Coordinates):
        def homography(self, frame: Frame, draw: Draw | None) -> Any:
            return moved(-2, 0)

    moved_boxes = augmented(boxes, Flip(1.0), _ToTheLeft(), samples=1)
    assert (moved_boxes.format.value, moved_boxes.canvas_size) == (layout, (8, 10))
    back = tv.convert_bounding_box_format(plain(moved_boxes), layout, "XYXY")
    # Mirrored: 7 to 9, 0 to 2, 5 to 5; then to the left: 5 to 7, beyond the edge, and the one that was empty.
    assert back.tolist() == [[[5, 2, 7, 6], [0, 0, 0, 0], [0, 0, 0, 0]]]


def test_boxes_that_are_none_and_points_far_outside_stay_what_they_are() -> None:
    none = TensorBBox(torch.zeros(2, 0, 4), canvas_size=(8, 10))
    far = TensorPoint([[[-1e4, 1e4]], [[1e4, 0.0]]], canvas_size=(8, 10))
    no_boxes, points = augmented((none, far), Rotate(20, 1.0), Warp(0.3, 1.0), samples=2)
    assert tuple(no_boxes.shape) == (2, 0, 4)
    assert plain(points).isfinite().all()
    inside = (plain(points) >= 0).all(-1) & (plain(points) <= torch.tensor([10.0, 8.0])).all(-1)
    assert not inside.any()


def test_masks_need_a_class_for_what_lies_beyond() -> None:
    mask = TensorMask(torch.ones(2, 6, 6, dtype=torch.int64))
    with pytest.raises(
        ConfigError, match="pad_mode='zeros' has no class for what lies beyond a mask; use 'reflection' or"
    ):
        augmented(mask, Rotate(45, 1.0, pad_mode="zeros"), samples=2)
    assert (augmented(mask, Rotate(45, 1.0, pad_mode="border"), samples=2) == 1).all()
    large = TensorMask(torch.full((2, 6, 6), 2**40 + 1))  # more than float32 can count to
    assert (augmented(large, Rotate(45, 1.0), samples=2) == 2**40 + 1).all()


# ------------------------------------------------------------------------------------------------ every kind of batch

LISTS: dict[str, list[Transform]] = {
    "usual": aug_transforms(),
    "usual, another size": aug_transforms(size=(9, 11), flip_vert=True),
    "parts": [RandomResizedCropGPU(8), Hue(), Saturation()],
    "effects": [GaussianBlur(p=0.6), GaussianNoise(p=0.6), Solarize(), Posterize(3), RandomErasing(max_count=3)],
    "policies": [*rand_augment(3, 20), *trivial_augment()],
}


@pytest.mark.parametrize("name", LISTS)
def test_a_sample_does_not_depend_on_the_batch_it_is_in_to_the_last_bit(name: str) -> None:
    x = pictures(17, 13, 18)
    everything = augmented(x, *LISTS[name], samples=17)
    for part in ([3], [16, 2, 5], [8, 1, 0, 9, 12, 4, 7]):
        assert torch.equal(augmented(x[part], *LISTS[name], samples=part), everything[part])


@pytest.mark.parametrize("name", LISTS)
def test_samples_differ_and_so_do_epochs(name: str) -> None:
    x = pictures(1, 16, 16).expand(32, -1, -1, -1)
    first, second = (augmented(x, *LISTS[name], samples=32, epoch=epoch) for epoch in (0, 1))
    assert len({plain(each).numpy().tobytes() for each in first}) > 20
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_type_dtype_and_memory_format_are_kept(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = pictures(4, 12, 14, dtype=dtype).contiguous(memory_format=layout)
    got = augmented(x, *LISTS[name], samples=4)
    assert (type(got), got.dtype) == (TensorImage, dtype)
    assert got.is_contiguous(memory_format=layout)
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    exact = augmented(pictures(4, 12, 14, dtype=torch.float64), *LISTS[name], samples=4)
    if name in ("usual", "parts"):
        torch.testing.assert_close(plain(got).double(), plain(exact), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_images_of_any_shape_come_through(name: str, channels: int, size: tuple[int, int]) -> None:
    got = augmented(pictures(3, *size, channels=channels), *LISTS[name], samples=3)
    assert got.shape[:2] == (3, channels)
    assert plain(got).isfinite().all()


@pytest.mark.parametrize("name", LISTS)
def test_a_batch_of_no_samples_comes_through(name: str) -> None:
    assert len(augmented(pictures(2, 8, 8)[:0], *LISTS[name], samples=[])) == 0


def test_whole_numbers_are_moved_and_rounded_and_refused_where_their_range_matters() -> None:
    floats = pictures(3, 9, 9)
    whole = TensorImage((plain(floats) * 255).round().to(torch.uint8))
    got = augmented(whole, Rotate(30, 1.0), samples=3)
    assert (type(got), got.dtype) == (TensorImage, torch.uint8)
    expected = augmented(ImageToFloat()(whole), Rotate(30, 1.0), samples=3)
    torch.testing.assert_close(plain(got).float(), (plain(expected) * 255).round(), atol=1, rtol=0)
    for tfm in (Brightness(), Hue(), Solarize(), RandomErasing(), trivial_augment()[2]):
        with pytest.raises(
            DataError, match=r"\w+ got pixels of torch.uint8; put ImageToFloat\(\), which makes them 0..1"
        ):
            augmented(whole, tfm, samples=3)


@pytest.mark.parametrize("name", LISTS)
def test_batches_that_cannot_be_are_refused_with_their_shape(name: str) -> None:
    for tfm in LISTS[name]:
        if isinstance(tfm, Rescale):
            continue
        said = f"{type(tfm).__name__} draws for each sample of a batch; use it in batch_tfms"
        with pytest.raises(ConfigError, match=said):
            tfm(pictures(2, 8, 8)[0], draws(2))
        with pytest.raises(DataError, match="draws of 3 samples for a batch of 2"):
            tfm(pictures(2, 8, 8), draws(3))
    with pytest.raises(DataError, match="a batch of images of 0 x 8 pixels has nothing to move"):
        Rotate()(TensorImage(torch.zeros(2, 3, 0, 8)), draws(2))


def test_nothing_of_it_is_undone_and_normalisation_is() -> None:
    x = pictures(4, 8, 8)
    pipeline = Pipeline([*aug_transforms(), Normalize([0.5] * 3, [0.25] * 3)])
    shown = pipeline.decode(pipeline(x, draws(4), split_idx=TRAIN))
    torch.testing.assert_close(plain(shown), plain(augmented(x, *aug_transforms(), samples=4)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_what_touches_pixels_compiles_into_one_graph(backend: str) -> None:
    torch.compiler.reset()
    x, turn = plain(pictures(2, 8, 9)), torch.eye(3).repeat(2, 1, 1) + 0.01
    turn[:, :2] *= 0.1
    colours = torch.rand(2, 4, 4)

    def both(x: torch.Tensor) -> torch.Tensor:
        return recolour(resample(x, turn, (6, 7), "bilinear", "border"), colours)

    torch.testing.assert_close(torch.compile(both, backend=backend, fullgraph=True)(x), both(x))
    torch.compiler.reset()


# ------------------------------------------------------------------------------------------------ ways to turn


@pytest.mark.parametrize("size", [(5, 5), (4, 6)])
def test_dihedral_is_eight_ways_of_a_square_and_four_of_another_shape_equally_likely(size: tuple[int, int]) -> None:
    x = TensorImage(torch.rand(1, 1, *size).expand(800, -1, -1, -1))
    got = plain(augmented(x, Dihedral(1.0), samples=800))
    square = plain(x)[0]
    turned = [square, square.transpose(-1, -2)] if size[0] == size[1] else [square]
    ways = [each.flip(dims) for each in turned for dims in ((), (-1,), (-2,), (-1, -2))]
    counts = [sum(torch.equal(each, way) for each in got) for way in ways]
    assert sum(counts) == 800
    assert min(counts) > 0.7 * 800 / len(ways)


def test_views_are_every_way_and_move_points_too() -> None:
    assert [view.way for view in flip_views()] == [0, 1]
    x = TensorImage(torch.rand(2, 3, 5, 5))
    points = TensorPoint([[[0.5, 1.5]]] * 2, canvas_size=(5, 5))
    seen = set()
    for view in dihedral_views():
        image, point = Pipeline([view])((x, points), split_idx=VALID)
        column, row = (plain(point)[0, 0] - 0.5).int().tolist()
        assert torch.equal(image[0, :, row, column], x[0, :, 1, 0])
        seen.add(plain(image).numpy().tobytes())
    assert len(seen) == 8
    assert torch.equal(Pipeline([View(1)])(x, split_idx=VALID), x.flip(-1))
    with pytest.raises(ConfigError, match=r"View\(way=4\) swaps rows and columns, which images of 4 x 6 cannot"):
        View(4)(TensorImage(torch.rand(2, 3, 4, 6)))
    with pytest.raises(ConfigError, match=r"View\(way=8\): expected 0 to 7"):
        View(8)


# ------------------------------------------------------------------------------------------------ colours


def test_brightness_and_contrast_are_straight_lines_through_what_they_say() -> None:
    grey = TensorImage(torch.full((4000, 1, 1, 1), 0.5))
    bright = plain(augmented(grey, Brightness(0.2, 1.0), samples=4000)).flatten()
    assert 0.4 <= bright.min() < 0.401 < 0.599 < bright.max() <= 0.6
    assert torch.allclose(augmented(grey, Contrast(0.2, 1.0), samples=4000), grey)  # it is the middle
    dark = TensorImage(torch.full((4000, 1, 1, 1), 0.4))
    factors = (0.5 - plain(augmented(dark, Contrast(0.2, 1.0), samples=4000)).flatten()) / 0.1
    assert 0.799 < factors.min() < 0.802 < 1.24 < factors.max() < 1.2501
    assert (factors < 1).float().mean() == pytest.approx(0.5, abs=0.03)


def test_what_leaves_the_range_is_cut_off_once_at_the_end() -> None:
    class _By(Brightness):
        def matrix(self, channels: int, draw: Draw | None) -> Any:
            matrix = np.eye(channels + 1)[None].copy()
            matrix[:, :channels, channels] = self.max_lighting
            return matrix

    x = pictures(2, 4, 4)
    there, back = _By(1.0), _By(1.0)
    back.max_lighting = -1.0
    torch.testing.assert_close(augmented(x, there, back, samples=2), x)
    assert (augmented(x, there, samples=2) == 1).all()


def test_hue_and_saturation_keep_grey_and_luma() -> None:
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    x = TensorImage(0.4 + 0.2 * plain(pictures(50, 4, 4)))  # nothing is cut off
    for tfm in (Hue(0.1, 1.0), Saturation(0.2, 1.0)):
        got = augmented(x, tfm, samples=50)
        torch.testing.assert_close((plain(got) * luma).sum(1), (plain(x) * luma).sum(1), atol=2e-3, rtol=0)
        assert (plain(got) - plain(x)).abs().max() > 0.01
        grey = TensorImage(plain(x)[:, :1].expand(-1, 3, -1, -1))
        torch.testing.assert_close(plain(augmented(grey, tfm, samples=50)), plain(grey), atol=2e-3, rtol=0)
        assert torch.equal(augmented(x[:, :1], tfm, samples=50), x[:, :1])
        with pytest.raises(
            DataError, match="mixes red, green and blue, and these images have 4 channels; leave it out"
        ):
            augmented(pictures(2, 4, 4, channels=4), tfm, samples=2)


def test_a_third_of_the_circle_of_hues_takes_red_to_green() -> None:
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(2000, -1, -1, -1)
    got = plain(augmented(TensorImage(red), Hue(0.5, 1.0), samples=2000)).flatten(1)
    assert {int(each) for each in got.argmax(1)} == {0, 1, 2}


def test_saturation_is_torchvisions() -> None:
    x = TensorImage(0.3 + 0.4 * plain(pictures(5, 4, 4)))
    got = augmented(x, Saturation(0.2, 1.0), samples=5)
    draw = draws(5).at("0:Saturation")
    draw.bernoulli(1.0)
    factors = np.exp(draw.uniform(np.log(0.8), -np.log(0.8)))
    for i, factor in enumerate(factors):
        torch.testing.assert_close(plain(got)[i], tv.adjust_saturation(plain(x)[i], factor), atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------------------ effects


def test_solarising_posterising_and_blurring_are_torchvisions() -> None:
    x = pictures(3, 20, 22)
    torch.testing.assert_close(augmented(x, Solarize(0.4, 1.0), samples=3), tv.solarize(x, 0.4))
    whole = (plain(x) * 255).round().to(torch.uint8)
    expected = tv.posterize(whole, 3).float() / 255
    torch.testing.assert_close(plain(augmented(TensorImage(whole / 255), Posterize(3, 1.0), samples=3)), expected)
    blurred = plain(augmented(x, GaussianBlur(1.5, 1.5, 1.0), samples=3))
    reference = tv.gaussian_blur(plain(x), [11, 11], [1.5, 1.5])
    torch.testing.assert_close(blurred[..., 6:-6, 6:-6], reference[..., 6:-6, 6:-6], atol=1e-5, rtol=0)


def test_noise_is_each_pixels_own_and_of_the_deviation_that_is_drawn() -> None:
    grey = TensorImage(torch.full((200, 1, 16, 16), 0.5))
    stds = plain(augmented(grey, GaussianNoise(0.1, 1.0), samples=200)).flatten(1).std(1)
    assert stds.max() == pytest.approx(0.1, abs=0.015)
    assert stds.mean() == pytest.approx(0.05, abs=0.008)


@pytest.mark.parametrize("max_count", [1, 3])
def test_erasing_takes_a_share_of_the_area(max_count: int) -> None:
    x = TensorImage(torch.full((400, 3, 30, 40), 7.0))
    got = plain(augmented(x, RandomErasing(1.0, 0.1, 0.3, max_count=max_count), samples=400))
    gone = (got != 7).all(1).float().mean((1, 2))
    assert gone.mean() == pytest.approx(0.2 if max_count == 1 else 0.18, abs=0.03)
    assert got[got != 7].std() == pytest.approx(1, abs=0.02)
    zeros = plain(augmented(x, RandomErasing(1.0, 0.1, 0.3, fill="zeros"), samples=400))
    assert set(zeros.unique().tolist()) == {0, 7}


# ------------------------------------------------------------------------------------------------ policies


def test_a_policys_three_transforms_draw_the_same_operations() -> None:
    """Of TrivialAugment's one operation at most one of the three does anything."""
    x = pictures(300, 12, 12)
    changed = []
    for tfm in trivial_augment():
        got = augmented(x, tfm, samples=300)
        changed.append((plain(got) - plain(x)).abs().amax((1, 2, 3)) > 1e-3)
    together = torch.stack(changed).sum(0)
    assert together.max() == 1
    assert all(each.float().mean() > 0.1 for each in changed)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("autocontrast", tv.autocontrast),
        ("equalize", tv.equalize),
        ("sharpness", lambda x: tv.adjust_sharpness(x, 1.594)),
        ("posterize", lambda x: tv.posterize(x, 5)),
        ("solarize", lambda x: tv.solarize(x, 87)),
    ],
)
def test_the_operations_of_a_policy_are_torchvisions(name: str, reference: Any) -> None:
    whole = (plain(pictures(4, 40, 41)) * 200 + 20).round().to(torch.uint8)
    level = np.full(4, 0.66)
    strength, change = policies._EFFECTS[name]
    got = change(whole / 255, torch.from_numpy(strength(level, False)).float()[:, None, None, None])
    expected = reference(whole).float()
    assert ((got * 255).round() - expected).abs().max() <= 1


@pytest.mark.parametrize(("n", "magnitude"), [(0, 9), (2, 31), (2, -1)])
def test_policies_that_cannot_be_are_refused(n: int, magnitude: float) -> None:
    with pytest.raises(ConfigError, match=r"n=0\): expected at least 1|rand_augment\(magnitude=.*\): expected 0 to 30"):
        rand_augment(n, magnitude)


# ------------------------------------------------------------------------------------------------ the usual ones


def test_aug_transforms_are_fastais_with_its_defaults() -> None:
    assert aug_transforms() == [
        Flip(0.5), Warp(0.2, 0.75), Rotate(10.0, 0.75), Zoom(1.0, 1.1, 0.75), Brightness(0.2, 0.75), Contrast(0.2, 0.75)
    ]  # fmt: skip
    assert aug_transforms(2.0, flip_vert=True, max_zoom=1)[:3] == [Dihedral(0.5), Warp(0.4, 0.75), Rotate(20.0, 0.75)]
    nothing = {"do_flip": False, "max_rotate": 0.0, "max_zoom": 1.0, "max_lighting": 0.0, "max_warp": 0.0}
    assert aug_transforms(**nothing) == []
    assert aug_transforms(**nothing, size=8, xtra_tfms=Hue()) == [Rescale(8, pad_mode="reflection"), Hue()]
    assert aug_transforms(**nothing, size=8, min_scale=0.5)[0] == RandomResizedCropGPU(
        8, 0.5, (1, 1), pad_mode="reflection"
    )
    names = list(inspect.signature(aug_transforms).parameters)
    assert names[:11] == [
        "mult", "do_flip", "flip_vert", "max_rotate", "min_zoom", "max_zoom", "max_lighting", "max_warp", "p_affine",
        "p_lighting", "xtra_tfms",
    ]  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"aug_transforms\(min_scale=0.5\): parts of images are resized; give their size"
    ):
        aug_transforms(min_scale=0.5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rotate(p=1.5), r"Rotate\(p=1.5\): a probability is 0 to 1"),
        (
            lambda: Zoom(1.2, 1.1),
            r"Zoom\(min_zoom=1.2, max_zoom=1.1\): expected two positive numbers, the first no larger",
        ),
        (lambda: Warp(1.0), r"Warp\(magnitude=1.0\): expected at least 0 and less than 1"),
        (lambda: Shear(90), r"Shear\(max_deg=90\): expected 0 to less than 90 degrees"),
        (lambda: Translate(2), r"Translate\(max_share=2\): a share is 0 to 1"),
        (lambda: Rescale(0), r"Rescale\(0\): expected one number or \(height, width\), in pixels, at least 1"),
        (
            lambda: RandomResizedCropGPU(8, 0),
            r"RandomResizedCropGPU\(min_scale=0, max_scale=1.0\): expected two positive",
        ),
        (lambda: RandomResizedCropGPU(8, ratio=(1,)), r"RandomResizedCropGPU\(ratio=\[1.0\]\): expected \(from, to\)"),
        (lambda: RandomResizedCropGPU(8, valid_scale=0), r"valid_scale=0\): expected more than 0, up to 1"),
        (lambda: Brightness(1.5), r"Brightness\(max_lighting=1.5\): a share is 0 to 1"),
        (lambda: Contrast(1.0), r"Contrast\(max_lighting=1.0\): expected at least 0 and less than 1"),
        (lambda: GaussianNoise(-1), r"GaussianNoise\(max_std=-1\): expected a deviation, 0 or more"),
        (lambda: Posterize(9), r"Posterize\(bits=9\): expected 0 to 8"),
        (lambda: RandomErasing(sl=0.5), r"RandomErasing\(sl=0.5, sh=0.3\): expected two shares, the first no larger"),
        (lambda: RandomErasing(max_count=0), r"RandomErasing\(max_count=0\): expected at least 1"),
        (lambda: RandomErasing(fill="red"), r"RandomErasing\(fill='red'\): expected 'noise' or 'zeros'"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("tfm", [tfm for tfms in LISTS.values() for tfm in tfms], ids=lambda tfm: type(tfm).__name__)
def test_every_augmentation_survives_json_and_leaves_labels_alone(tfm: Transform) -> None:
    assert Transform.from_plain(json.loads(json.dumps(tfm.to_plain()))) == tfm
    label = torch.tensor([3])
    assert tfm(label, draws(1)) is label


# ------------------------------------------------------------------------------------------------ Flip

IMAGES = TensorImage(torch.rand(64, 3, 5, 7, generator=torch.Generator().manual_seed(0)))


def flipped(samples: list[int], p: float = 0.5, *, vertical: bool = False, epoch: int = 0) -> torch.Tensor:
    """Returns the images of these samples as a training batch through `Flip`."""
    draw = Draw(seed=1, epoch=epoch, samples=samples)
    return Pipeline([Flip(p, vertical)])(IMAGES[samples], draw, split_idx=TRAIN)


@pytest.mark.parametrize(("vertical", "dim"), [(False, -1), (True, -2)])
def test_p_1_mirrors_every_image_and_p_0_none(vertical: bool, dim: int) -> None:
    everything = list(range(64))
    assert torch.equal(flipped(everything, 1.0, vertical=vertical), IMAGES.flip(dim))
    assert torch.equal(flipped(everything, 0.0, vertical=vertical), IMAGES)


def test_each_image_of_a_batch_has_a_draw_of_its_own_and_another_one_each_epoch() -> None:
    changed = [
        (flipped(list(range(64)), epoch=epoch) != IMAGES).flatten(1).any(1).as_subclass(torch.Tensor)
        for epoch in range(20)
    ]
    assert torch.stack(changed).float().mean() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(changed[0], changed[1])


@settings(deadline=None)
@given(samples=st.lists(st.integers(0, 63), min_size=1, max_size=20))
def test_what_happens_to_a_sample_does_not_depend_on_the_others_in_its_batch(samples: list[int]) -> None:
    assert torch.equal(flipped(samples), flipped(list(range(64)))[samples])


def test_images_are_mirrored_in_training_only() -> None:
    draw = Draw(seed=1, epoch=0, samples=list(range(64)))
    assert torch.equal(Pipeline([Flip(1.0)])(IMAGES, draw, split_idx=VALID), IMAGES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_type_and_dtype_are_kept(dtype: torch.dtype) -> None:
    batch = Flip()(TensorImage((IMAGES[:4] * 255).to(dtype)), Draw(seed=1, epoch=0, samples=[0, 1, 2, 3]))
    assert (type(batch), batch.dtype) == (TensorImage, dtype)


def test_a_single_image_is_refused_instead_of_becoming_a_batch() -> None:
    with pytest.raises(ConfigError, match="Flip draws for each sample of a batch; use it in batch_tfms"):
        Flip()(IMAGES[0], Draw(seed=1, epoch=0, samples=0))
    with pytest.raises(ConfigError, match="use it in batch_tfms"):
        Flip()(IMAGES)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_outside_0_to_1_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match=rf"Flip\(p={p}\): a probability is 0 to 1"):
        Flip(p)
