"""Training a generator against a critic: callbacks over the loop that trains everything."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.callbacks import Callback, Phase
from dist_ai.core.names import known_arguments
from dist_ai.core.randomness import Draw, name_key
from dist_ai.core.transform import ItemTransform, Transform
from dist_ai.core.types import SemanticTensor
from dist_ai.data import DataLoaders, TransformBlock
from dist_ai.distributed.strategies import DDP
from dist_ai.errors import ConfigError
from dist_ai.export import ModelSpec
from dist_ai.learner import Learner, LearnerOptions, with_defaults
from dist_ai.losses import losses
from dist_ai.optimizer import Adam
from dist_ai.vision.models.gan import GANModule

__all__ = ["DrawNoise", "GANLoss", "GANTrainer", "NoiseBlock", "TensorNoise", "ToNoise", "gan_learner"]


class TensorNoise(SemanticTensor):
    """Numbers that an image is made of: (..., size), float32."""

    holds = frozenset({"float"})


@dataclass
class ToNoise(ItemTransform):
    """An item, whatever it is, to normal numbers that depend on the item only; noise itself stays as it is.

    Args:
        size: how many.

    >>> torch.equal(ToNoise(3)("a"), ToNoise(3)("a"))
    True
    """

    size: int

    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.size, Integral) or self.size < 1:
            raise ConfigError(f"NoiseBlock({self.size!r}): expected how many numbers an image is made of, at least 1")

    def encodes(self, x: object) -> Any:
        """Returns the numbers."""
        if isinstance(x, torch.Tensor):
            return TensorNoise(x.float())
        numbers = np.random.default_rng(name_key(repr(x))).standard_normal(self.size, dtype=np.float32)
        return TensorNoise(torch.from_numpy(numbers))


@dataclass
class DrawNoise(Transform):
    """Other noise for a training sample in each epoch."""

    order: ClassVar[int] = 1
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: TensorNoise, draw: Draw | None) -> Any:
        """Returns what is drawn."""
        if draw is None:
            return x
        return TensorNoise(torch.as_tensor(draw.normal(size=tuple(x.shape)), dtype=torch.float32))


def NoiseBlock(size: int = 100) -> TransformBlock:
    """Returns the block of noise, `size` normal numbers: drawn anew in each training epoch, else of the item only.

    So ``learn.predict(7)`` is always the same image.
    """
    return TransformBlock(type_tfms=[ToNoise(size)], item_tfms=[DrawNoise()])


@losses.register("GANLoss")
class GANLoss(nn.Module):
    """What a `GANModule` learns by: the critic to tell real from fake, the generator to make fakes that it takes for real.

    Args:
        kind: ``"bce"``: the scores are logits of being real (arXiv:1406.2661); ``"wasserstein"``: the critic parts their means
            (arXiv:1701.07875), and its weights must be clipped; ``"hinge"`` (arXiv:1802.05957).

    A mean over samples, so the same on any number of ranks.

    Raises:
        ConfigError: another kind.
    """

    def __init__(self, kind: Literal["bce", "wasserstein", "hinge"] = "bce") -> None:
        super().__init__()
        if kind not in ("bce", "wasserstein", "hinge"):
            raise ConfigError(f"GANLoss({kind!r}): expected 'bce', 'wasserstein' or 'hinge'")
        self.kind = kind

    def forward(self, pred: dict[str, torch.Tensor], *targets: torch.Tensor) -> torch.Tensor:
        """Returns the mean over samples."""
        return self.per_sample(pred).mean()

    def per_sample(self, pred: dict[str, torch.Tensor], *targets: torch.Tensor) -> torch.Tensor:
        """Returns the loss of each sample, (batch,)."""
        if "real" in pred:
            return self._critic(pred["real"], pred["fake_score"])
        return F.softplus(-pred["score"]) if self.kind == "bce" else -pred["score"]

    def _critic(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        if self.kind == "bce":
            return (F.softplus(-real) + F.softplus(fake)) / 2
        return fake - real if self.kind == "wasserstein" else F.relu(1 - real) + F.relu(1 + fake)

    def activation(self, pred: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the images."""
        return pred["fake"]

    def decodes(self, pred: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the images."""
        return pred["fake"]

    def to_plain(self) -> dict[str, Any]:
        """Returns the arguments that make this loss again."""
        return {"kind": self.kind}


class GANTrainer(Callback):
    """Lets critic and generator take turns by the number of the step, which every rank and a resumed run know.

    Args:
        n_crit, n_gen: steps of the critic, and then of the generator.
        clip: the critic's weights stay between -clip and clip, as Wasserstein's needs; None leaves them.
    """

    phase: ClassVar[Phase] = Phase.PREPARE
    may_cancel: ClassVar[bool] = False

    def __init__(self, n_crit: int = 1, n_gen: int = 1, *, clip: float | None = None) -> None:
        if min(n_crit, n_gen) < 1:
            raise ConfigError(f"GANTrainer(n_crit={n_crit}, n_gen={n_gen}): expected 1 step or more of each")
        self.n_crit, self.n_gen, self.clip = n_crit, n_gen, clip

    @property
    def _parts(self) -> tuple[nn.Module, nn.Module]:
        """The part whose turn it is, and the other one."""
        model: Any = self.learn.model
        at_work = model.mode == "critic"
        return (model.critic, model.generator) if at_work else (model.generator, model.critic)

    def before_batch(self) -> None:
        """Says whose turn it is, and shows the critic the real images."""
        turn = self.state.train_step % (self.n_crit + self.n_gen)
        self.learn.model.mode = "critic" if turn < self.n_crit else "generator"  # type: ignore[assignment]
        self.state.xb = (*self.state.xb, *self.state.yb)

    def before_step(self) -> None:
        """Drops the gradients of the part whose turn it is not: the optimizer leaves it alone."""
        for parameter in self._parts[1].parameters():
            parameter.grad = None

    def after_step(self) -> None:
        """Clips the critic's weights."""
        at_work, _ = self._parts
        if self.clip is not None and self.learn.model.mode == "critic":
            with torch.no_grad():
                for parameter in at_work.parameters():
                    parameter.clamp_(-self.clip, self.clip)


@known_arguments(LearnerOptions)
def gan_learner(
    dls: DataLoaders,
    model: GANModule,
    *,
    kind: Literal["bce", "wasserstein", "hinge"] = "bce",
    n_crit: int = 1,
    n_gen: int = 1,
    clip: float | None = None,
    spec: ModelSpec | None = None,
    **options: Unpack[LearnerOptions],
) -> Learner:
    """Returns a Learner that trains a generator against a critic.

    Args:
        dls: noise, or images, and real images: a block of ``(NoiseBlock, ImageBlock)``.
        model: such as `dist_ai.vision.models.gan` makes it.
        kind: of the loss; see `GANLoss`.
        n_crit, n_gen, clip: see `GANTrainer`. A Wasserstein GAN is ``kind="wasserstein", n_crit=5, clip=0.01``.
        spec: how the model is built, for `export`.
        options: see `Learner`. By default the optimizer is Adam without weight decay and with momentum 0.5.

    Generator and critic are the two parameter groups, so ``fit(5, [1e-4, 4e-4])`` gives each its learning rate; a group's
    step, momentum and all, happens only when it is its turn, as with an optimizer for each.

    Raises:
        ConfigError: an argument that cannot work.

    ```python
    learn = gan_learner(dls, gan(32), spec=ModelSpec("gan", {"size": 32}))
    learn.fit(20, 2e-4)
    ```
    """
    if not all(isinstance(getattr(model, name, None), nn.Module) for name in ("generator", "critic")):
        raise ConfigError(
            f"a {type(model).__name__} has no generator and critic; expected a model such as dist_ai.vision.models.gan(size)"
        )
    trainer = GANTrainer(n_crit, n_gen, clip=clip)
    given = with_defaults(options, trainer, opt_func=_adam, wd=0.0, loss_func=GANLoss(kind))
    if given.get("strategy", "auto") == "auto":
        given["strategy"] = DDP(find_unused_parameters=True)  # each step is of one part
    return Learner(dls, model, spec=spec, splitter=_generator_and_critic, **given)


def _adam(params: Any, **hypers: Any) -> Any:
    return Adam(params, mom=0.5, **hypers)


def _generator_and_critic(model: Any) -> list[list[nn.Parameter]]:
    return [list(model.generator.parameters()), list(model.critic.parameters())]
