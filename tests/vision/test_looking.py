"""Looking into a vision Learner: predictions of each kind of target and of each kind of source, and where it looks."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dist_ai.core.vision_types import TensorPoint
from dist_ai.data import CategoryBlock, DataBlock, DataLoaders, RegressionBlock
from dist_ai.errors import BadSampleError, ConfigError
from dist_ai.export import Predictor
from dist_ai.learner import Interpretation, Learner
from dist_ai.vision import GradCAM, ImageBlock, MaskBlock, PointBlock, grad_cam, unet_learner, vision_learner

SIDE = 24


def corner(i: int) -> tuple[int, int]:
    x, y = np.random.default_rng(i).integers(0, SIDE - 8, 2)
    return int(x), int(y)


def picture(i: int) -> np.ndarray:
    """A bright square on noise."""
    x, y = corner(i)
    pixels = np.random.default_rng(i).integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[y : y + 8, x : x + 8] += 150
    return pixels


def square(i: int) -> np.ndarray:
    return (picture(i)[..., 0] > 100).astype(np.uint8)


def source(item: Any) -> Any:
    """A picture by its number; whatever else there is as it is."""
    return picture(item) if isinstance(item, int) else item


def learner(block: Any, get_y: Any, **options: Any) -> Learner:
    blocks = DataBlock((ImageBlock, block), get_x=source, get_y=get_y)
    dls: DataLoaders = blocks.dataloaders(list(range(40)), bs=8, num_workers=0, seed=1)
    return vision_learner(dls, "small_cnn", pretrained=False, run_dir=None, progress=False, **options)


def test_points_are_predicted_in_pixels_whatever_the_source_is(tmp_path: Path) -> None:
    learn = learner(PointBlock, lambda i: [corner(i), (corner(i)[0] + 8, corner(i)[1] + 8)], y_range=(-1.2, 1.2))
    learn.fit_one_cycle(1, 1e-2)
    file = tmp_path / "a.png"
    Image.fromarray(picture(3)).save(file)
    predictor = Predictor(learn.export(tmp_path / "model"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        sources = [file, str(file), picture(3), Image.fromarray(picture(3)), file.read_bytes(), f"{address}/a.png"]
        expected = learn.predict(picture(3))[0]
        assert (type(expected), tuple(expected.shape), expected.canvas_size) == (TensorPoint, (2, 2), (SIDE, SIDE))
        for given in sources:
            assert torch.equal(learn.predict(given)[0], expected)
            assert torch.equal(predictor.predict(given).label, expected)
        with pytest.raises(BadSampleError, match=r"gone\.png"):
            learn.predict(f"{address}/gone.png")
        with pytest.raises(BadSampleError, match=f"{address}/ cannot be read as an image: it is of no known format"):
            learn.predict(f"{address}/")  # a page
    finally:
        server.shutdown()
        server.server_close()
    assert learn.show_results(max_n=2).axes
    losses, _ = Interpretation.from_learner(learn).top_losses(2)
    assert losses[0] >= losses[1]


def test_numbers_are_predicted_within_their_range(tmp_path: Path) -> None:
    learn = learner(RegressionBlock, lambda i: float(corner(i)[0]), y_range=(0, SIDE))
    learn.fit_one_cycle(1, 1e-2)
    value, *_ = learn.predict(picture(3))
    assert 0 < float(torch.as_tensor(value).flatten()[0]) < SIDE
    assert learn.show_results(max_n=2).axes
    cam = grad_cam(learn, picture(3), output=0)
    assert (cam.output, cam.label) == (0, "output 0")


# ------------------------------------------------------------------------------------------------ Grad-CAM


class Bright(nn.Module):
    """A body that passes pixels on, and a head whose second output is the mean brightness on the right side."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.body.weight, 1 / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.body(x)
        return torch.stack([-seen.mean((1, 2, 3)), seen.mean((1, 2, 3))], 1)


def test_the_heat_is_where_the_class_is_and_nothing_is_changed() -> None:

    blocks = DataBlock(
        (ImageBlock, CategoryBlock(["dark", "bright"])), get_x=picture, get_y=lambda i: ["dark", "bright"][i % 2]
    )
    learn = Learner(blocks.dataloaders(list(range(10)), bs=4, num_workers=0), Bright(), run_dir=None, progress=False)
    learn.model.train()
    learn.model.body.requires_grad_(False)
    cam = grad_cam(learn, picture(5), output="bright")
    x, y = corner(5)
    assert (type(cam), cam.label, cam.output, tuple(cam.heat.shape)) == (GradCAM, "bright", 1, (SIDE, SIDE))
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[y : y + 8, x : x + 8] = True
    assert cam.heat[inside].min() > cam.heat[~inside].max()
    assert float(cam.heat.max()) == 1.0
    assert learn.model.training
    assert learn.model.body.weight.grad is None
    assert cam.plot().axes[0].get_title() == "bright"
    assert grad_cam(learn, picture(5)).output == 1
    for options, text in (
        ({"output": "grey"}, "output='grey': expected a class, or a number from 0 to 1"),
        ({"output": 2}, "output=2: expected a class, or a number from 0 to 1"),
        ({"layer": learn.model}, "Bright gives (1, 2), and no map (batch, channels, height, width); give layer="),
    ):
        with pytest.raises(ConfigError, match=re.escape(text)):
            grad_cam(learn, picture(5), **options)


class Mask(Bright):
    """As `Bright`, of each pixel: the second class is where it is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(self.body, nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x
        for part in self.body:  # one after the other, as a U-Net calls them
            seen = part(seen)
        return torch.cat([1 - seen, seen - 1], 1)


def test_where_each_pixel_has_outputs_the_heat_is_of_all_of_them() -> None:
    blocks = DataBlock((ImageBlock, MaskBlock(["dark", "bright"])), get_x=source, get_y=square)
    learn = Learner(blocks.dataloaders(list(range(10)), bs=4, num_workers=0), Mask(), run_dir=None, progress=False)
    cam = grad_cam(learn, picture(5), output="bright")
    x, y = corner(5)
    assert (cam.label, tuple(cam.heat.shape), float(cam.heat.max())) == ("bright", (SIDE, SIDE), 1.0)
    assert cam.heat[y + 4, x + 4] > cam.heat.mean()
    assert grad_cam(learn, picture(5)).label == "dark"  # what most of the pixels are


@pytest.mark.parametrize("arch", ["small_cnn", "resnet18"])
def test_a_u_net_is_looked_into_at_its_coarsest_map(arch: str) -> None:
    blocks = DataBlock((ImageBlock, MaskBlock(["dark", "bright"])), get_x=source, get_y=square)
    dls = blocks.dataloaders(list(range(10)), bs=4, num_workers=0)
    learn = unet_learner(dls, arch, pretrained=False, run_dir=None, progress=False)
    assert tuple(grad_cam(learn, picture(5), output="bright").heat.shape) == (SIDE, SIDE)
