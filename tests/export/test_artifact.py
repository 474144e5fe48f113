"""Exports: complete, without pickle, the same whatever trained them; damaged and malicious ones are refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import image_folder, small_learner, small_loaders
from safetensors.torch import load_file, save_file
from torch import nn
from toy import make_learner, weights_of

from dist_ai import __version__
from dist_ai.core import Transform
from dist_ai.core.sealed import seal
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import DataLoaders
from dist_ai.data.recipe import SampleRecipe
from dist_ai.errors import ArtifactError, ConfigError, DataError
from dist_ai.export import ModelSpec, Predictor, load_export, register_builder, save_export
from dist_ai.export.artifact import builders
from dist_ai.learner import Learner, load_learner, saving
from dist_ai.losses import CrossEntropyLoss
from dist_ai.optimizer import SGD
from dist_ai.vision import Flip, Resize, aug_transforms
from dist_ai.vision.models import vision_model

LOADERS: dict[str, Callable[[Path], Any]] = {
    "load_export": load_export,
    "load_learner": load_learner,
    "Predictor": Predictor,
}


@dataclass(frozen=True)
class Exported:
    """A Learner that was trained a little, and what it exported."""

    learn: Learner
    images: Path
    folder: Path

    @property
    def files(self) -> list[Path]:
        return sorted((self.images / "valid").rglob("*.png"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    images = image_folder(tmp_path_factory.mktemp("images"))
    learn = small_learner(small_loaders(images, item_tfms=Resize(16), batch_tfms=aug_transforms()))
    learn.fit(1, 1e-2)
    return Exported(learn, images, learn.export(tmp_path_factory.mktemp("out") / "model"))


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the export, to be damaged."""
    return shutil.copytree(exported.folder, tmp_path / "copy")


def resealed(folder: Path, description: Any, weights: bytes | None) -> Path:
    """Makes an export by hand, with a manifest that vouches for it."""
    with seal(folder, "export") as inside:
        if description is not None:
            text = description if isinstance(description, str) else json.dumps(description)
            (inside / "model.json").write_text(text)
        if weights is not None:
            (inside / "model.safetensors").write_bytes(weights)
    return folder


# ------------------------------------------------------------------------------------------------ what it holds


def test_it_holds_the_weights_a_description_and_a_manifest_and_no_pickle(exported: Exported) -> None:
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "manifest.json",
        "model.json",
        "model.safetensors",
    ]
    assert [path.name for path in exported.folder.parent.iterdir()] == ["model"]  # nothing half-written beside it
    tensors = load_file(exported.folder / "model.safetensors")
    state = exported.learn.model.state_dict()
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, state[name])
        assert tensor.dtype == state[name].dtype


def test_the_description_says_how_to_build_the_model_and_what_it_sees(exported: Exported) -> None:
    description = json.loads((exported.folder / "model.json").read_text())
    assert description["builder"] == "vision_model"
    head = {"concat_pool": True, "lin_ftrs": 512, "ps": 0.5, "first_bn": True, "bn_final": False, "lin_first": False}
    assert description["arguments"] == {"arch": "small_cnn", "n_out": 2, "n_in": 3, **head, "y_range": None}
    recipe = description["recipe"]
    assert recipe["inputs"] == [[{"transform": "OpenImage", "mode": "RGB"}, {"transform": "CheckImage"}]]
    assert recipe["targets"] == [[{"transform": "Categorize", "vocab": ["cat", "dog"], "sort": True, "add_na": False}]]
    assert [tfm["transform"] for tfm in recipe["item_tfms"]] == ["Resize", "ImageToTensor"]
    assert [tfm["transform"] for tfm in recipe["batch_tfms"]] == [
        "ImageToFloat", "Flip", "Warp", "Rotate", "Zoom", "Brightness", "Contrast", "Normalize"
    ]  # fmt: skip
    assert description["loss"] == {"loss": "CrossEntropyLoss", "axis": 1, "label_smoothing": 0.0}
    assert description["versions"].keys() == {"dist_ai", "torch", "torchvision"}
    assert description["versions"]["dist_ai"] == __version__


def test_the_same_model_exports_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again = exported.learn.export(tmp_path / "again")
    for path in exported.folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_learner_loaded_learner_and_predictor_say_the_same_to_the_last_bit(exported: Exported) -> None:
    loaded, predictor = load_learner(exported.folder), Predictor(exported.folder)
    for file in exported.files[::4]:
        label, index, output = exported.learn.predict(file)
        assert torch.equal(loaded.predict(file)[2], output)
        prediction = predictor.predict(file)
        assert torch.equal(prediction.output, output)
        assert (prediction.label, prediction.confidence) == (label, float(output[int(index)]))
        assert loaded.predict(file)[:2] == (label, index)
    assert predictor.vocab == loaded.dls.vocab == exported.learn.dls.vocab


def test_whole_batches_are_predicted_to_the_last_bit_too(exported: Exported) -> None:
    files = exported.files
    outputs, targets = exported.learn.get_preds(dl=exported.learn.dls.test_dl(files, num_workers=0))
    assert targets is None
    predicted = Predictor(exported.folder).predict_many(files)
    assert torch.equal(torch.stack([each.output for each in predicted]), outputs)
    loaded = load_learner(exported.folder)
    assert torch.equal(loaded.get_preds(dl=loaded.dls.test_dl(files, num_workers=0))[0], outputs)


def test_a_loaded_learner_trains_on_once_it_has_data(exported: Exported) -> None:
    loaded = load_learner(exported.folder)
    with pytest.raises(DataError, match=r"there is no train loader: this was loaded from an export; set learn\.dls"):
        loaded.fit(1)
    loaded.dls = small_loaders(exported.images, item_tfms=Resize(16))
    loaded.fit(1)
    assert len(loaded.recorder.losses) == 4


def test_a_learner_that_was_loaded_exports_again(exported: Exported, tmp_path: Path) -> None:
    again = load_learner(exported.folder).export(tmp_path / "again")
    for path in exported.folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("arch", ["mnasnet0_5", "googlenet", "densenet121", "swin_t"])
def test_architectures_with_habits_of_their_own_survive_the_round_trip(arch: str, tmp_path: Path) -> None:
    spec = ModelSpec("vision_model", {"arch": arch, "n_out": 2})
    model = spec.build()
    save_export(tmp_path / "model", model=model, spec=spec, recipe=SampleRecipe(), loss_func=None)
    loaded = load_export(tmp_path / "model")
    assert torch.equal(weights_of(loaded.model), weights_of(model))
    assert not loaded.model.training
    assert loaded.loss_func is None
    assert loaded.spec == spec


def test_models_of_ones_own_export_with_a_registered_builder(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "_things", dict(builders._things))

    @register_builder("tied")
    def tied(width: int) -> nn.Module:
        """Two layers that share their weights: a file holds them twice, the model once."""
        first = nn.Linear(width, width)
        second = nn.Linear(width, width)
        second.weight = first.weight
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), first, second, nn.Linear(width, 2))

    spec = ModelSpec("tied", {"width": 3})
    learn = Learner(exported.learn.dls, spec.build(), spec=spec, run_dir=None, progress=False)
    loaded = load_learner(learn.export(tmp_path / "model"))
    assert loaded.model[2].weight is loaded.model[3].weight
    assert torch.equal(loaded.predict(exported.files[0])[2], learn.predict(exported.files[0])[2])


# ------------------------------------------------------------------------------------------------ 1 = N


def train_and_export(images: str, out: str) -> None:
    dls = small_loaders(images, item_tfms=Resize(16), batch_tfms=[Flip()], bs=25)
    learn = small_learner(dls, opt_func=SGD, ps=0.1)
    learn.fit(1, 1e-2)
    learn.export(out)


def test_one_process_and_two_export_the_same_model(spawn: Any, tmp_path: Path) -> None:
    # Batches of 25, 25 and 10: in batches of a few images BatchNorm divides by deviations near 0, which amplifies rounding.
    images = image_folder(tmp_path / "images", per_class=30)
    for world_size in (1, 2):
        spawn(world_size, train_and_export, images=str(images), out=str(tmp_path / str(world_size)))
    alone, together = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "2"))
    assert list(alone) == list(together)
    for name, tensor in alone.items():
        assert (tensor.shape, tensor.dtype) == (together[name].shape, together[name].dtype)
        torch.testing.assert_close(
            together[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert (tmp_path / "1" / "model.json").read_bytes() == (tmp_path / "2" / "model.json").read_bytes()


# ------------------------------------------------------------------------------------------------ damaged ones

FILES = ("manifest.json", "model.json", "model.safetensors")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("damage", [truncate, change_a_byte, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_by_every_way_to_load(copy: Path, name: str, damage: Any, loader: str) -> None:
    damage(copy / name)
    with pytest.raises(ArtifactError, match=re.escape(name)) as error:
        LOADERS[loader](copy)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_no_export_is_named(tmp_path: Path, loader: str) -> None:
    load = LOADERS[loader]
    with pytest.raises(ArtifactError, match=rf"^no export at {tmp_path}/gone: it is not there$"):
        load(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=rf"^no export at {tmp_path}/file: it is a file$"):
        load(tmp_path / "file")
    with pytest.raises(ArtifactError, match=rf"^{tmp_path} is not a complete export: manifest\.json.* is missing"):
        load(tmp_path)
    for kind, told in (
        ("checkpoint", "is a checkpoint, and no export; `dist-ai consolidate {} OUT` makes one of it"),
        (
            "weights",
            "holds the weights of a model alone, and no export, which also says how the model is built and what it reads; make "
            "its Learner with spec=ModelSpec(...), load {}/model.safetensors into its model, and call learn.export(...)",
        ),
        ("strange", "is of the kind 'strange', not 'export'"),
    ):
        with seal(tmp_path / kind, kind):
            pass
        with pytest.raises(ArtifactError) as refused:
            load(tmp_path / kind)
        assert str(refused.value) == f"{tmp_path / kind} {told.format(tmp_path / kind)}"
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        ArtifactError, match=r"/run is a run directory, and no export; learn\.export\(\.\.\.\) makes one"
    ):
        load(tmp_path / "run")
    (tmp_path / "run" / "export").mkdir()
    with pytest.raises(ArtifactError, match=r"/run is a run directory, and no export; did you mean .*/run/export\?$"):
        load(tmp_path / "run")


# ------------------------------------------------------------------------------------------------ hand-made ones


def recipe_with(exported: Exported, **parts: Any) -> dict[str, Any]:
    return {"recipe": {**json.loads((exported.folder / "model.json").read_text())["recipe"], **parts}}


# What a stranger may have written, each with what is said of it. None of it may run.
MALICE: dict[str, tuple[Callable[[Exported], dict[str, Any]], str]] = {
    "a module's function as the builder": (
        lambda _: {"builder": "os.system", "arguments": {"command": "touch TRACE"}},
        r"model builder 'os\.system' is not known in this program",
    ),
    "no name as the builder": (lambda _: {"builder": ["vision_model"]}, "TypeError: unhashable type"),
    "another architecture": (
        lambda _: {"arguments": {"arch": "os.getcwd", "n_out": 2}},
        r"ConfigError: no architecture named 'os\.getcwd'",
    ),
    "arguments that the builder does not have": (
        lambda _: {"arguments": {"arch": "small_cnn", "n_out": 2, "weights": "evil.pth"}},
        "TypeError: create_head.* unexpected keyword argument 'weights'",
    ),
    "arguments of another type": (
        lambda _: {"arguments": ["small_cnn", 2]},
        "TypeError: .*must be a mapping, not list",
    ),
    "arguments of another model": (
        lambda _: {"arguments": {"arch": "small_cnn", "n_out": 3}},
        r"has 'head\.7\.weight' in shape \(2, 512\) and not \(3, 512\)\. The builder makes another model now",
    ),
    "a builder of another model": (
        lambda _: {"arguments": {"arch": "resnet18", "n_out": 2}},
        r"has no weights for 'body\.conv1\.weight'",
    ),
    "an unknown transform": (
        lambda it: recipe_with(it, item_tfms=[{"transform": "subprocess.Popen", "args": "touch TRACE"}]),
        r"transform 'subprocess\.Popen' is not known in this program",
    ),
    "a transform without a name": (
        lambda it: recipe_with(it, item_tfms=[{"size": 3}]),
        r"is no transform: expected what to_plain wrote",
    ),
    "a transform with a field it does not have": (
        lambda it: recipe_with(it, item_tfms=[{"transform": "Resize", "size": 3, "run": "touch TRACE"}]),
        "Resize",
    ),
    "a transform with a value it refuses": (
        lambda it: recipe_with(it, item_tfms=[{"transform": "Resize", "size": 0}]),
        r"ConfigError: Resize\(0\): expected one number",
    ),
    "a text for the transforms": (lambda it: recipe_with(it, item_tfms="Resize"), r"'R' is no transform"),
    "an unknown loss": (
        lambda _: {"loss": {"loss": "eval"}},
        r"loss 'eval' is not known in this program",
    ),
    "a loss with an argument it does not have": (
        lambda _: {"loss": {"loss": "CrossEntropyLoss", "wieght": 3}},
        "TypeError: .*unexpected keyword argument 'wieght'",
    ),
}


@pytest.mark.parametrize("what", MALICE)
def test_a_description_that_names_other_things_is_refused_and_runs_nothing(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    change, said = MALICE[what]
    description = {**json.loads((exported.folder / "model.json").read_text()), **change(exported)}
    folder = resealed(tmp_path / "theirs", description, (exported.folder / "model.safetensors").read_bytes())
    for load in LOADERS.values():
        with pytest.raises(ArtifactError, match=rf"export {folder}.*{said}"):
            load(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("key", ["builder", "arguments", "recipe", "loss", "versions"])
def test_a_description_that_lacks_something_is_refused(exported: Exported, tmp_path: Path, key: str) -> None:
    description = json.loads((exported.folder / "model.json").read_text())
    del description[key]
    folder = resealed(tmp_path / "theirs", description, (exported.folder / "model.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match=f"does not describe a model that this dist_ai can make: KeyError: '{key}'"):
        load_export(folder)


@pytest.mark.parametrize("description", ["{", "[]", "null", '"text"', None])
def test_a_description_that_is_no_description_is_refused(exported: Exported, tmp_path: Path, description: Any) -> None:
    weights = (exported.folder / "model.safetensors").read_bytes()
    with pytest.raises(ArtifactError, match="theirs does not describe a model that this dist_ai can make"):
        load_export(resealed(tmp_path / "theirs", description, weights))


@pytest.mark.parametrize("weights", [b"", b"not weights at all", None])
def test_weights_that_are_no_weights_are_refused(exported: Exported, tmp_path: Path, weights: bytes | None) -> None:
    description = json.loads((exported.folder / "model.json").read_text())
    with pytest.raises(ArtifactError, match="theirs does not describe a model that this dist_ai can make"):
        load_export(resealed(tmp_path / "theirs", description, weights))


def test_weights_too_many_or_too_few_are_named(exported: Exported, tmp_path: Path) -> None:
    description = json.loads((exported.folder / "model.json").read_text())
    tensors, file = load_file(exported.folder / "model.safetensors"), tmp_path / "w.safetensors"
    save_file({**tensors, "body.backdoor": torch.zeros(2)}, file)
    with pytest.raises(ArtifactError, match=r"has weights for 'body\.backdoor', which are too many"):
        load_export(resealed(tmp_path / "theirs", description, file.read_bytes()))
    del tensors["head.7.weight"]
    save_file(tensors, file)
    with pytest.raises(
        ArtifactError, match=r"has no weights for 'head\.7\.weight'\. The builder makes another model now"
    ):
        load_export(resealed(tmp_path / "theirs", description, file.read_bytes()))


# ------------------------------------------------------------------------------------------------ writing


def test_exporting_again_replaces_what_is_there(exported: Exported, tmp_path: Path) -> None:
    first = small_learner(small_loaders(exported.images), n_out=2, lin_ftrs=16).export(tmp_path / "model")
    assert load_export(first).spec.arguments["lin_ftrs"] == 16
    second = exported.learn.export(tmp_path / "model")
    assert load_export(second).spec.arguments["lin_ftrs"] == 512
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_something_else_is_never_replaced(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(exported.images.rglob("*"))
    monkeypatch.setattr(saving, "gather", None)  # it is refused before anything is gathered from the ranks
    with pytest.raises(ConfigError, match=rf"{exported.images} would delete what is there"):
        exported.learn.export(exported.images)
    assert sorted(exported.images.rglob("*")) == before


@dataclass
class Stateful(Transform):
    """Keeps what JSON cannot."""

    table: Any

    def encodes(self, x: TensorImage) -> Any:
        return x


def model_and(exported: Exported, tmp_path: Path, **options: Any) -> Learner:
    model = vision_model("small_cnn", 2)
    dls: DataLoaders = options.pop("dls", exported.learn.dls)
    return Learner(dls, model, CrossEntropyLoss(), run_dir=None, progress=False, **options)


CANNOT: dict[str, tuple[dict[str, Any], str]] = {
    "no spec": (
        {},
        r"cannot export this VisionModel: a file holds no code, .* Learner\(spec=ModelSpec\('my_model', \{\.\.\.\}\)\)",
    ),
    "a builder that is not registered": (
        {"spec": ModelSpec("vision_modle", {})},
        "cannot export this VisionModel by 'vision_modle', which is not registered",
    ),
    "arguments that are no plain data": (
        {"spec": ModelSpec("vision_model", {"arch": "small_cnn", "n_out": 2, "act": nn.ReLU})},
        "cannot be written to a file .*give numbers, strings, lists and dicts",
    ),
    "arguments that the builder does not have": (
        {"spec": ModelSpec("vision_model", {"arch": "small_cnn", "n_out": 2, "outputs": 2})},
        "builds no model: TypeError: .*'outputs'",
    ),
    "arguments of another model": (
        {"spec": ModelSpec("vision_model", {"arch": "small_cnn", "n_out": 5})},
        r"builds another model than the trained one, which has 'head\.7\.weight' in shape \(2, 512\) and not \(5, 512\)",
    ),
}


@pytest.mark.parametrize("what", CANNOT)
def test_a_model_that_could_not_be_built_again_is_not_exported(exported: Exported, tmp_path: Path, what: str) -> None:
    options, said = CANNOT[what]
    with pytest.raises(ConfigError, match=said):
        model_and(exported, tmp_path, **options).export(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


SPEC = ModelSpec("vision_model", {"arch": "small_cnn", "n_out": 2})


def test_a_lambda_in_the_transforms_is_named(exported: Exported, tmp_path: Path) -> None:
    dls = small_loaders(exported.images, item_tfms=[Resize(16), lambda sample: sample])
    with pytest.raises(
        ConfigError, match=r"<lambda> cannot be written to a file, because files hold no code; write it as a Tr"
    ):
        model_and(exported, tmp_path, dls=dls, spec=SPEC).export(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_transform_that_keeps_what_json_cannot_is_named(exported: Exported, tmp_path: Path) -> None:
    dls = small_loaders(exported.images, batch_tfms=Stateful({1, 2}))
    with pytest.raises(ConfigError, match="Stateful holds a set, which JSON cannot"):
        model_and(exported, tmp_path, dls=dls, spec=SPEC).export(tmp_path / "model")


def test_loaders_of_ready_samples_with_several_inputs_cannot_be_exported_and_say_why(tmp_path: Path) -> None:
    learn = make_learner(spec=SPEC)
    learn.dls.n_inp = 2
    with pytest.raises(DataError, match="made from ready samples, so it is not known how an item becomes one"):
        learn.export(tmp_path / "model")
