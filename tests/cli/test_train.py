"""`dist-ai train`: a configuration file is checked before anything starts, and trains what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from pictures import image_folder

from dist_ai.cli.main import main
from dist_ai.cli.train import TrainConfig
from dist_ai.errors import ConfigError
from dist_ai.export import load_export

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    image_folder(tmp_path / "images", per_class=6)
    file = tmp_path / "cats.yaml"
    file.write_text(
        f"data: {tmp_path / 'images'}\narch: small_cnn\npretrained: false\nmethod: one_cycle\nepochs: 1\nbs: 4\nlr: 1e-2\n"
    )
    return file


# ------------------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_examples_are_valid(file: Path) -> None:
    assert TrainConfig.read(file, []).data


def test_what_the_file_does_not_say_has_a_default(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data: images\n")
    config = TrainConfig.read(file, [])
    assert (config.arch, config.epochs, config.bs, config.pretrained) == ("resnet18", 3, 64, "auto")


def test_changes_on_the_command_line_win_and_have_the_types_of_yaml(config: Path) -> None:
    changed = TrainConfig.read(config, ["lr=3e-4", "epochs=7", "augment=false", "valid_pct=0.1", "arch=resnet34"])
    assert (changed.lr, changed.epochs, changed.augment, changed.valid_pct) == (3e-4, 7, False, 0.1)
    assert changed.arch == "resnet34"
    assert TrainConfig.read(config, ["valid_pct=null"]).valid_pct is None
    assert TrainConfig.read(config, []).lr == 0.01


def test_a_configuration_cannot_be_changed_afterwards(config: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig.read(config, []).lr = 1.0  # type: ignore[misc]


WRONG: dict[str, tuple[str | bytes, list[str], str]] = {
    "no data": ("bs: 3\n", [], r"wrong\.yaml does not say where the images are; add a line 'data: FOLDER'"),
    "an empty file": ("", [], "does not say where the images are"),
    "a list": ("- a\n- b\n", ["lr=1"], r"wrong\.yaml holds a list; expected lines of 'name: value'"),
    "a text": ("hello\n", ["lr=1"], r"wrong\.yaml holds a str; expected lines of 'name: value'"),
    "no yaml": ("data: [\n", [], r"wrong\.yaml is not valid YAML: "),
    "no text": (b"data: \xff\xfe\n", [], r"wrong\.yaml is not valid YAML: "),
    "a misspelt name": (
        "data: a\nepcohs: 3\n",
        [],
        "'epcohs' is not a setting; did you mean 'epochs'.*; the settings are data, train",
    ),
    "a misspelt change": ("data: a\n", ["learning_rate=1"], "'learning_rate' is not a setting; the settings are data"),
    "a number where a name belongs": ("data: 5\n", [], r"wrong\.yaml: data=5: input should be a valid string"),
    "several wrong values": (
        "data: a\nbs: 0\nlr: fast\n",
        [],
        "bs=0: input should be greater than 0; lr='fast': input should be a valid number",
    ),
    "a wrong choice": (
        "data: a\nmethod: onecycle\n",
        [],
        "method='onecycle': input should be 'one_cycle', 'fine_tune' or 'fit'",
    ),
    "a share above 1": ("data: a\nvalid_pct: 20\n", [], "valid_pct=20: input should be less than 1"),
    "half a change": (
        "data: a\n",
        ["lr"],
        "'lr' is not a change of the configuration; expected name=value, such as lr=0.01",
    ),
    "a change that is no yaml": ("data: a\n", ["lr=["], r"'lr=\[' does not give lr a valid YAML value"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, what: str) -> None:
    content, changes, said = WRONG[what]
    file = tmp_path / "wrong.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=said):
        TrainConfig.read(file, changes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"no configuration file at {tmp_path}/gone\.yaml"):
        TrainConfig.read(tmp_path / "gone.yaml", [])
    with pytest.raises(ConfigError, match=rf"no configuration file at {tmp_path}"):
        TrainConfig.read(tmp_path, [])


def test_nothing_is_started_for_a_wrong_configuration(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dist_ai.distributed.launchers.launch", lambda *_, **__: pytest.fail("it was started"))
    for arguments in (["bs=none"], ["colour=red"]):
        with pytest.raises(SystemExit) as end:
            main(["train", str(config), *arguments])
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith("dist-ai: error: ")
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------------ the training


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        yield it


def train(lab: Lab, *arguments: str | Path) -> Any:
    return lab.python("-m", "dist_ai.cli.main", "train", *map(str, arguments))


def test_two_workers_train_it_export_it_and_do_not_train_it_again(lab: Lab, config: Path) -> None:
    done = train(lab, config, "--workers", "2", "epochs=2")
    assert done.returncode == 0, done.stderr
    run = lab.folder / "runs" / "cats"
    assert f"exported to {run}/export; predict with: dist-ai predict {run}/export FILE...\n" in done.stdout
    assert load_export(run / "export").recipe.vocab == ["cat", "dog"]
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["kind"] == "epoch"]) == 2
    assert (
        len([row for row in rows if row["kind"] == "step"]) == 6
    )  # 12 images in 2 epochs, 4 a batch over both workers

    again = train(lab, config, "epochs=2")
    assert again.returncode == 0, again.stderr
    assert "fit 1 is done already" in again.stdout

    other = train(lab, config, "epochs=1")
    assert other.returncode == 1
    # One line: there is no code of the user's in which to show a place.
    assert re.fullmatch(
        r"dist-ai: error: rank 0 of 1 raised ConfigError: .* n_epoch was 2 and is 1\. To begin anew there use --fresh.*\n",
        other.stderr,
    )


def test_the_run_and_the_export_go_where_it_says(lab: Lab, config: Path) -> None:
    done = train(
        lab, config, "run_dir=elsewhere", "export=the model", "method=fine_tune", "valid_pct=0.5", "size=16", "lr=0.02"
    )
    assert done.returncode == 0, done.stderr
    assert (lab.folder / "elsewhere" / "metrics.csv").is_file()
    [_, tensor] = load_export(lab.folder / "the model").recipe.item_tfms.tfms
    assert type(tensor).__name__ == "ImageToTensor"
    assert not (lab.folder / "runs").exists()
