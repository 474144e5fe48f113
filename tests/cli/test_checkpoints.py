"""`dist-ai checkpoints` and `dist-ai consolidate`: what a run has saved, and one file of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from pictures import image_folder, small_learner, small_loaders
from safetensors.torch import load_file
from saving import damage, flip, shards
from toy import give_back_run_directories, make_learner

from dist_ai.checkpoint import KeepBest
from dist_ai.cli.main import main
from dist_ai.export import load_export
from dist_ai.metrics import accuracy


def command(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Returns the exit code and what was printed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out + said.err


@pytest.fixture
def run(tmp_path: Path) -> Path:
    learn = make_learner(
        run_dir=tmp_path / "run",
        metrics=accuracy,
        keep_best=KeepBest("accuracy"),
    )
    learn.fit(3)
    learn.fit(1)
    give_back_run_directories()
    return tmp_path / "run"


def test_checkpoints_are_listed_oldest_first_with_what_is_in_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = command(capsys, "checkpoints", str(run))
    head, *rows = said.splitlines()
    assert code == 0
    assert head.split() == ["checkpoint", "fit", "epoch", "step", "MB", "ranks", "written", "metrics", "verified"]
    assert [row.split()[0] for row in rows] == sorted(path.name for path in (run / "checkpoints").glob("fit-*"))
    last = rows[-1].split()
    assert last[:6] == ["fit-0002-done", "2", "1", "0", "0.0", "1"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", last[6])
    assert re.search(r"train_loss \S+, valid_loss \S+, accuracy \S+  sound$|accuracy \S+, .*  sound$", rows[-1])


def test_a_damaged_one_is_named_and_the_command_ends_with_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run / "checkpoints" / "fit-0001-done")
    (run / "checkpoints" / "fit-0002-done" / "manifest.json").write_text("{}")
    (run / "checkpoints" / "fit-0003-done").mkdir()
    (run / "checkpoints" / "fit-0003-done" / "rank-00000-of-00001.x-1.safetensors").touch()
    code, said = command(capsys, "checkpoints", str(run))
    assert code == 1
    rows = {row.split()[0]: row for row in said.splitlines()}
    assert re.search(r"DAMAGED: .*fit-0001-done is damaged: the content of rank-00000", rows["fit-0001-done"])
    assert re.search(r"DAMAGED: .*manifest\.json is not what was written", rows["fit-0002-done"])
    assert re.search(
        r"DAMAGED: .*not complete: manifest\.json, which is written last, is missing", rows["fit-0003-done"]
    )
    code, said = command(capsys, "checkpoints", str(run), "--no-verify")
    assert "not looked at" in next(row for row in said.splitlines() if row.startswith("fit-0001-done"))


def test_one_is_pinned_and_unpinned_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = command(capsys, "checkpoints", str(run), "--pin", "fit-0001-done")
    assert "fit-0001-done (pinned)" in said
    _, said = command(capsys, "checkpoints", str(run), "--unpin", "fit-0001-done")
    assert "pinned" not in said
    code, said = command(capsys, "checkpoints", str(run), "--pin", "fit-0001-don")
    assert (code, "did you mean 'fit-0001-done'" in said) == (2, True)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = command(capsys, "checkpoints", str(tmp_path))
    assert code == 2
    assert f"{tmp_path} is no run directory: there is no folder of checkpoints in it" in said
    assert command(capsys, "checkpoints", str(tmp_path / "nowhere"))[0] == 2
    for name in ("train", "other"):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
    for verb in ("checkpoints", "watch"):
        _, said = command(capsys, verb, str(tmp_path / "runs"))
        assert f"; there are runs in it: {tmp_path}/runs/other, {tmp_path}/runs/train\n" in said
        _, said = command(capsys, verb, str(tmp_path / "runs" / "trian"))
        assert said.endswith(f"; did you mean '{tmp_path}/runs/train'?\n")
    (tmp_path / "runs" / "train" / "checkpoints" / "fit-0001-done").mkdir()
    for part in ("checkpoints/fit-0001-done", "checkpoints"):
        code, said = command(capsys, "checkpoints", str(tmp_path / "runs" / "train" / part))
        assert code == 2
        assert said.endswith(f"; it is a part of a run: did you mean '{tmp_path}/runs/train'?\n")
    (tmp_path / "checkpoints").mkdir()
    assert command(capsys, "checkpoints", str(tmp_path)) == (0, f"{tmp_path} has no checkpoints yet\n")


def test_a_model_that_can_be_built_becomes_the_export_that_the_learner_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = small_learner(small_loaders(image_folder(tmp_path / "images")), run_dir=tmp_path / "run")
    learn.fit(1, 1e-2)
    exported = learn.export(tmp_path / "export")
    place = tmp_path / "run" / "checkpoints" / "fit-0001-done"
    code, said = command(capsys, "consolidate", str(place), str(tmp_path / "out"))
    assert (code, said) == (0, f"an export of fit-0001-done in {tmp_path}/out\n")
    made, expected = (json.loads((folder / "model.json").read_text()) for folder in (tmp_path / "out", exported))
    assert made == expected
    weights, trained = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", exported))
    assert weights.keys() == trained.keys()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in weights.items())
    load_export(tmp_path / "out")


def test_of_another_model_its_weights_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn = make_learner(run_dir=tmp_path / "run")
    learn.fit(1)
    give_back_run_directories()
    place = tmp_path / "run" / "checkpoints" / "fit-0001-done"
    code, said = command(capsys, "consolidate", str(place), str(tmp_path / "out"))
    assert (code, said) == (0, f"the weights of fit-0001-done in {tmp_path}/out\n")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in learn.model.state_dict().items())
    [file] = shards(place)
    flip(file, 8 + int.from_bytes(file.read_bytes()[:8], "little"))
    code, said = command(capsys, "consolidate", str(place), str(tmp_path / "other"))
    assert (code, "is damaged" in said, (tmp_path / "other").exists()) == (1, True, False)


def test_a_run_is_no_checkpoint_of_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = command(capsys, "consolidate", str(run), str(tmp_path / "out"))
    assert code == 2
    assert f"{run} is a run; give one of its checkpoints, such as {run}/checkpoints/fit-0002-done" in said
