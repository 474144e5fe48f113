"""`dist-ai train`: trains an image classifier as a file says, with changes on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from dist_ai.errors import ConfigError, did_you_mean

__all__ = ["TrainConfig", "train"]


class TrainConfig(BaseModel):
    """What a configuration file may say; each name is also what ``name=value`` on the command line changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    data: str
    """The folder of images, or ``sample:fashion_mnist`` for the images that ship with dist_ai."""
    train: str = "train"
    """Name of its folder of training images."""
    valid: str = "valid"
    """Name of its folder of validation images."""
    valid_pct: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of all images drawn for validation, instead of those folders."""
    size: NonNegativeInt = 0
    """Height and width that images are resized to, in pixels; 0 leaves them as they are."""
    bs: PositiveInt = 64
    """Images in a batch, over all processes."""
    augment: bool = True
    """Whether training images are mirrored at random."""
    arch: str = "resnet18"
    """The architecture: a torchvision classifier's name, or ``small_cnn``."""
    pretrained: bool | Literal["auto"] = "auto"
    """Begin from published weights: true, false, or auto (if they can be had)."""
    method: Literal["one_cycle", "fine_tune", "fit"] = "fine_tune"
    """How to train: one_cycle, fine_tune (new layers first) or fit (constant rate)."""
    epochs: PositiveInt = 3
    """How often to go through the training images."""
    lr: PositiveFloat = 2e-3
    """The highest learning rate."""
    seed: int = 0
    """Of the split, the order, the augmentations and the first weights."""
    sync_bn: bool = True
    """Whether BatchNorm sees the batches of all processes."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes hold the model: each all of it (ddp), or they share it (fsdp)."""
    run_dir: str = "auto"
    """Where logs, events and checkpoints go; "auto" is runs/<name of the file>."""
    export: str = "auto"
    """Where the model goes; "auto" is <run_dir>/export."""

    @classmethod
    def read(cls, file: Path, changes: list[str]) -> TrainConfig:
        """Returns the configuration in a YAML file, with ``name=value`` changes.

        Raises:
            ConfigError: the file is missing or no YAML mapping, or a name or value in it is not known.
        """
        if not file.is_file():
            raise ConfigError(f"no configuration file at {file}")
        try:
            values = yaml.safe_load(file.read_bytes()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not valid YAML: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{file} holds a {type(values).__name__}; expected lines of 'name: value'")
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals:
                raise ConfigError(
                    f"{change!r} is not a change of the configuration; expected name=value, such as lr=0.01"
                )
            try:
                values[name] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise ConfigError(f"{change!r} does not give {name} a valid YAML value: {error}") from error
        if "data" not in values:
            raise ConfigError(f"{file} does not say where the images are; add a line 'data: FOLDER'")
        names = list(cls.model_fields)
        for name in values:
            if name not in names:
                raise ConfigError(
                    f"{name!r} is not a setting{did_you_mean(str(name), names)}; the settings are {', '.join(names)}"
                )
        try:
            return cls(**values)
        except ValidationError as error:
            problems = [f"{each['loc'][0]}={each['input']!r}: {each['msg'].lower()}" for each in error.errors()]
            raise ConfigError(f"{file}: {'; '.join(problems)}") from error


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file.", metavar="CONFIG.yaml")],
    changes: Annotated[
        list[str] | None, typer.Argument(help="Changes of what it says.", metavar="[name=value]...")
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 1,
    engine: Annotated[str, typer.Option(help="Who starts them: local or ray.")] = "local",
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of continuing the run.")] = False,
) -> None:
    """Trains an image classifier as CONFIG.yaml says, and exports it.

    dist-ai train config.yaml epochs=5 lr=0.01 --workers 2
    """
    settings = TrainConfig.read(config, changes or [])  # before any process is started
    run_dir = Path("runs") / config.stem if settings.run_dir == "auto" else Path(settings.run_dir)
    from dist_ai.distributed.launchers import launch
    from dist_ai.distributed.launchers.job import Engine

    # The workers run this very file: what they do is `_work`, below.
    arguments = [str(config.absolute()), *(changes or [])]
    launch(__file__, arguments, workers=workers, engine=cast(Engine, engine), run_dir=run_dir, fresh=fresh)


def _work(settings: TrainConfig) -> None:
    from dist_ai.data import sample_data
    from dist_ai.distributed.environment import launch_settings
    from dist_ai.metrics import accuracy
    from dist_ai.vision import ImageDataLoaders, Resize, aug_transforms, vision_learner

    kind, _, name = settings.data.partition(":")
    dls = ImageDataLoaders.from_folder(
        sample_data(name) if kind == "sample" else settings.data,
        train=settings.train,
        valid=settings.valid,
        valid_pct=settings.valid_pct,
        item_tfms=Resize(settings.size) if settings.size else None,
        batch_tfms=aug_transforms() if settings.augment else None,
        bs=settings.bs,
        seed=settings.seed,
    )
    learn = vision_learner(
        dls,
        settings.arch,
        pretrained=settings.pretrained,
        metrics=accuracy,
        sync_bn=settings.sync_bn,
        strategy=settings.strategy,
    )
    if settings.method == "one_cycle":
        learn.fit_one_cycle(settings.epochs, settings.lr)
    elif settings.method == "fine_tune":
        learn.fine_tune(settings.epochs, settings.lr)
    else:
        learn.fit(settings.epochs, settings.lr)
    run_dir = launch_settings().run_dir
    assert run_dir is not None
    directory = learn.export(run_dir / "export" if settings.export == "auto" else settings.export)
    if learn.collectives.world.is_main:
        print(f"exported to {directory}; predict with: dist-ai predict {directory} FILE...")


if __name__ == "__main__":
    _work(TrainConfig.read(Path(sys.argv[1]), sys.argv[2:]))
