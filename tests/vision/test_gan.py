"""A generator against a critic, over the untouched loop."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dist_ai.core.vision_types import TensorImage
from dist_ai.data import DataBlock, DataLoaders
from dist_ai.errors import ConfigError
from dist_ai.export import ModelSpec
from dist_ai.learner import Learner, load_learner
from dist_ai.optimizer import SGD
from dist_ai.vision import GANLoss, GANTrainer, ImageBlock, NoiseBlock, Normalize, gan_learner
from dist_ai.vision.gan import TensorNoise, ToNoise
from dist_ai.vision.models import basic_critic, gan

OPTIONS: dict[str, Any] = {"run_dir": None, "progress": False}


def picture(i: int) -> np.ndarray:
    """A bright image, of a shade."""
    return np.full((8, 8), 180 + i, np.uint8)


def loaders(n: int = 16, **options: Any) -> DataLoaders:
    tfms = [Normalize([0.5], [0.5]), *options.pop("batch_tfms", [])]
    block = DataBlock((NoiseBlock(4), ImageBlock("L")), get_y=picture, batch_tfms=tfms)
    return block.dataloaders(list(range(n)), bs=4, num_workers=0, seed=1, **options)


def learner(dls: DataLoaders, **options: Any) -> Learner:
    torch.manual_seed(0)
    arguments = {"size": 8, "channels": 1, "noise": 4, "width": 8}
    return gan_learner(dls, gan(**arguments), spec=ModelSpec("gan", arguments), **{**OPTIONS, **options})


def test_noise_is_of_the_item_and_in_training_of_the_epoch_too() -> None:
    assert torch.equal(ToNoise(3)(7), ToNoise(3)(7))
    assert not torch.equal(ToNoise(3)(7), ToNoise(3)(8))
    given = torch.ones(3)
    assert torch.equal(ToNoise(3)(given), given)
    dls = loaders()
    first, second = (torch.cat([x for _, (x, _) in dls.train.batches(epoch)]) for epoch in (0, 1))
    assert type(dls.one_batch()[0]) is TensorNoise
    assert not np.isclose(sorted(first.flatten().tolist()), sorted(second.flatten().tolist())).any()
    assert torch.equal(dls.valid.one_batch()[0], dls.valid.one_batch()[0])


def test_it_learns_to_make_bright_images_and_is_loaded_again(tmp_path: Path) -> None:
    learn = learner(loaders(32))
    before = learn.predict(3)[0].float().mean()
    learn.fit(10, 2e-3)
    image, *_ = learn.predict(3)
    assert (type(image), tuple(image.shape)) == (TensorImage, (1, 8, 8))
    assert abs(float(image.mean()) - 0.77) < abs(float(before) - 0.77)
    assert float(image.mean()) > 0.6
    assert learn.show_results(max_n=2).axes
    loaded = load_learner(learn.export(tmp_path / "model"))
    torch.testing.assert_close(loaded.predict(3)[0].as_subclass(torch.Tensor), image.as_subclass(torch.Tensor))


def test_each_part_learns_at_its_turn_alone() -> None:
    learn = learner(loaders(40), n_crit=3, n_gen=1, clip=0.05, kind="wasserstein", opt_func=SGD)
    model: Any = learn.model
    changed = []

    def weights(part: nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in part.parameters()]).clone()

    class WatchTurns(GANTrainer):
        def before_step(self) -> None:
            super().before_step()
            self.before = weights(model.generator), weights(model.critic)

        def after_step(self) -> None:
            super().after_step()
            after = weights(model.generator), weights(model.critic)
            changed.append(tuple(not torch.equal(a, b) for a, b in zip(self.before, after, strict=True)))

    learn.remove_cb(GANTrainer)
    learn.fit(1, 1e-2, cbs=WatchTurns(3, 1, clip=0.05))
    assert changed == [(False, True)] * 3 + [(True, False)] + [(False, True)] * 3 + [(True, False)]
    assert max(float(p.detach().abs().max()) for p in model.critic.parameters()) <= 0.05 + 1e-6


def test_the_losses_are_those_of_the_papers() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    critic, generator = {"real": real, "fake_score": fake}, {"fake": fake, "score": fake}
    bce = nn.functional.binary_cross_entropy_with_logits
    expected = (bce(real, torch.ones(2)) + bce(fake, torch.zeros(2))) / 2
    torch.testing.assert_close(GANLoss()(critic), expected)
    torch.testing.assert_close(GANLoss()(generator), bce(fake, torch.ones(2)))
    assert GANLoss("wasserstein")(critic).item() == pytest.approx(-1.75)
    assert GANLoss("hinge")(critic).item() == pytest.approx((0 + 1.5 + 2 + 0) / 2)
    assert GANLoss("hinge")(generator).item() == pytest.approx(1.25)


def test_arguments_that_cannot_be_are_explained() -> None:
    for error, text in (
        (lambda: GANLoss("bec"), "GANLoss('bec'): expected 'bce', 'wasserstein' or 'hinge'"),  # type: ignore[arg-type]
        (lambda: GANTrainer(0), "GANTrainer(n_crit=0, n_gen=1): expected 1 step or more of each"),
        (lambda: NoiseBlock(0), "NoiseBlock(0): expected how many numbers an image is made of, at least 1"),
        (
            lambda: gan_learner(None, nn.Linear(2, 2)),  # type: ignore[arg-type]  # wrong on purpose
            "a Linear has no generator and critic; expected a model such as dist_ai.vision.models.gan(size)",
        ),
        (lambda: basic_critic(12), "size=12 for a GAN: expected a power of 2, 8 or more"),
    ):
        with pytest.raises(ConfigError, match=re.escape(text)):
            error()
