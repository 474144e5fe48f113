"""A Learner's run directory: fits that are done are not trained again, and an interrupted one goes on where it was."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy import NUM_STEPS, Stop, StopAt, give_back_run_directories, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import Callback, on
from dist_ai.checkpoint import Run
from dist_ai.core import Transform
from dist_ai.data import DataLoaders
from dist_ai.distributed.environment import how_to_begin_anew
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.learner import Learner, run_places
from dist_ai.metrics import accuracy
from dist_ai.optimizer import Adam


class Counting(Callback):
    """Counts the training steps of the whole run, and says so to checkpoints."""

    may_cancel = False

    def __init__(self) -> None:
        self.steps = 0

    def after_step(self) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


FITS = (2, 1)  # epochs of the two fits; each epoch has NUM_STEPS steps
TOTAL_STEPS = sum(FITS) * NUM_STEPS


def program(run_dir: Path, *, cbs: Callback | None = None, **options: Any) -> tuple[Learner, list[Any], Counting]:
    """Two fits with a look between them: what a user's script does. Returns all that it could print."""
    counting = Counting()
    model = make_model(batch_norm=True)
    model.insert(3, nn.Dropout(0.3))  # which draws from torch's own generator
    learn = make_learner(
        dls=make_dls(bs=6),  # 6, 6 and 5: BatchNorm cannot take a batch of one
        model=model,
        opt_func=Adam,
        metrics=accuracy,
        run_dir=run_dir,
        checkpoint_every_s=None,
        checkpoint_every_steps=2,
        cbs=[counting, *([cbs] if cbs else [])],
        **options,
    )
    learn.fit_one_cycle(FITS[0], 0.05)
    seen: list[Any] = [learn.validate(), weights_of(learn.model).tolist(), list(learn.recorder.losses)]
    learn.fit(FITS[1], 0.01)
    seen += [learn.validate(), weights_of(learn.model).tolist(), list(learn.recorder.losses), learn.recorder.final]
    seen += [[(row["fit"], row["epoch"], row["train_loss"], row["accuracy"]) for row in learn.recorder.epochs]]
    return learn, seen, counting


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    _, seen, counting = program(tmp_path_factory.mktemp("undisturbed"))
    give_back_run_directories()
    assert counting.steps == TOTAL_STEPS
    return seen


def interrupt(run_dir: Path, step: int) -> None:
    with pytest.raises(Stop):
        program(run_dir, cbs=StopAt(step))
    give_back_run_directories()


# ------------------------------------------------------------------------------------------------ going on


def test_a_program_that_is_done_prints_the_same_again_without_training(
    tmp_path: Path, undisturbed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(tmp_path)[1] == undisturbed
    give_back_run_directories()
    capsys.readouterr()
    learn, seen, counting = program(tmp_path, cbs=StopAt(0))  # which a single training step would raise
    assert seen == undisturbed  # the look between the fits included: each fit has its own result back
    assert counting.steps == TOTAL_STEPS  # restored, not counted
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: fit 1 is done already; its result is restored. {how_to_begin_anew()}",
        f"{tmp_path}: fit 2 is done already; its result is restored",
    ]
    assert learn.opt.get_hyper("lr") == [pytest.approx(0.01)]


@pytest.mark.parametrize("step", range(1, TOTAL_STEPS))
def test_interrupted_before_any_step_it_ends_as_if_it_had_not_been(
    tmp_path: Path, undisturbed: list[Any], step: int
) -> None:
    interrupt(tmp_path, step)
    _, seen, counting = program(tmp_path)
    assert seen == undisturbed
    assert counting.steps == TOTAL_STEPS


def test_interrupted_again_and_again_it_ends_as_if_it_had_not_been(tmp_path: Path, undisturbed: list[Any]) -> None:
    for step in (3, 2, 3):
        interrupt(tmp_path, step)
    assert program(tmp_path)[1] == undisturbed


def test_callbacks_of_one_fit_go_on_too_and_two_of_a_class_each_with_its_own_state(tmp_path: Path) -> None:
    def run(*more: Callback) -> tuple[Counting, Counting]:
        always, once = Counting(), Counting()
        learn = make_learner(run_dir=tmp_path, checkpoint_every_s=None, checkpoint_every_steps=1, cbs=[always, *more])
        learn.fit(1)
        learn.fit(2, cbs=once)
        return always, once

    with pytest.raises(Stop):
        run(StopAt(NUM_STEPS + 2))
    give_back_run_directories()
    always, once = run()
    assert (always.steps, once.steps) == (3 * NUM_STEPS, 2 * NUM_STEPS)


def test_a_fit_that_came_to_no_checkpoint_begins_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stop):
        make_learner(run_dir=tmp_path, cbs=StopAt(2)).fit(1)
    give_back_run_directories()
    make_learner(run_dir=tmp_path).fit(1)
    assert (
        capsys.readouterr().out
        == f"{tmp_path}: a fit began here before, and there is no checkpoint to go on from; it begins anew\n"
    )


def test_it_says_where_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt(tmp_path, 5)
    capsys.readouterr()
    program(tmp_path)
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}: fit 1 goes on at epoch 1, step 1"


def test_a_fit_that_is_added_to_a_program_is_trained_on_top_of_those_that_are_done(tmp_path: Path) -> None:
    learn, _, counting = program(tmp_path)
    learn.fit(1, 0.001)
    expected = weights_of(learn.model)
    give_back_run_directories()
    learn, _, counting = program(tmp_path)
    assert counting.steps == TOTAL_STEPS
    learn.fit(1, 0.001)
    assert counting.steps == TOTAL_STEPS + NUM_STEPS
    assert torch.equal(weights_of(learn.model), expected)


def test_fine_tune_is_two_fits_and_goes_on_in_the_second(tmp_path: Path) -> None:
    def tune(folder: Path, stop: int | None = None) -> Learner:
        def split(model: nn.Sequential) -> list[list[nn.Parameter]]:
            return [list(model[0].parameters()), list(model[2].parameters())]

        cbs = [] if stop is None else [StopAt(stop)]
        learn = make_learner(splitter=split, run_dir=folder, checkpoint_every_steps=1, cbs=cbs)
        learn.fine_tune(1, 0.1)
        return learn

    expected = weights_of(tune(tmp_path / "a").model)
    with pytest.raises(Stop):
        tune(tmp_path / "b", stop=NUM_STEPS + 1)
    give_back_run_directories()
    assert torch.equal(weights_of(tune(tmp_path / "b").model), expected)


def test_layers_that_look_for_their_version_in_a_state_dict_are_restored(tmp_path: Path) -> None:
    class Versioned(nn.Linear):
        """Refuses a plain dict, as torchvision's MNASNet does."""

        _version = 2

        def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
            assert local_metadata.get("version") == 2
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def learner() -> Learner:
        torch.manual_seed(0)
        return make_learner(model=nn.Sequential(Versioned(4, 3)).double(), run_dir=tmp_path)

    learn = learner()
    learn.fit(1)
    give_back_run_directories()
    again = learner()
    again.fit(1)
    assert torch.equal(weights_of(again.model), weights_of(learn.model))


# ------------------------------------------------------------------------------------------------ damage


def damage(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def checkpoints(run_dir: Path) -> list[str]:
    return Run(run_dir).names()


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_it(tmp_path: Path, undisturbed: list[Any]) -> None:
    interrupt(tmp_path, 5)
    _, second = checkpoints(tmp_path)
    damage(tmp_path / "checkpoints" / second)
    with pytest.warns(UserWarning, match=rf"{second} is damaged: .*Going on from the checkpoint before it"):
        _, seen, _ = program(tmp_path)
    assert seen == undisturbed


def test_if_the_last_fits_result_is_damaged_that_fit_is_trained_again(tmp_path: Path, undisturbed: list[Any]) -> None:
    program(tmp_path)
    give_back_run_directories()
    damage(tmp_path / "checkpoints" / "fit-0002-done")
    with pytest.warns(UserWarning, match="fit-0002-done is damaged"):
        _, seen, counting = program(tmp_path)
    assert seen == undisturbed
    assert counting.steps == TOTAL_STEPS


def test_if_only_an_earlier_fits_result_is_damaged_nothing_is_trained_again(
    tmp_path: Path, undisturbed: list[Any]
) -> None:
    program(tmp_path)
    give_back_run_directories()
    damage(tmp_path / "checkpoints" / "fit-0001-done")
    with pytest.warns(UserWarning, match="fit-0001-done is damaged"):
        _, seen, _ = program(tmp_path, cbs=StopAt(0))
    assert seen[3:] == undisturbed[3:]


# ------------------------------------------------------------------------------------------------ another program


class Wobble(Transform):
    """An augmentation that the first program did not have."""


def jittered(dls: DataLoaders) -> DataLoaders:
    dls.add_batch_tfms(Wobble())
    return dls


def frozen(learn: Learner) -> Learner:
    next(learn.model.children()).requires_grad_(False)
    return learn


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "epochs": (
        lambda folder: make_learner(run_dir=folder).fit(2),
        "in fit 1, n_epoch was 1 and is 2",
    ),
    "learning rate": (
        lambda folder: make_learner(run_dir=folder).fit(1, 0.5),
        r"in fit 1, lr was \[0\.1\] and is \[0\.5\]",
    ),
    "method": (
        lambda folder: make_learner(run_dir=folder).fit_one_cycle(1),
        "in fit 1, method was fit and is fit_one_cycle, .*div was None and is 25",
    ),
    "batch size": (
        lambda folder: make_learner(dls=make_dls(bs=9), run_dir=folder).fit(1),
        "in fit 1, bs was 8 and is 9",
    ),
    "weight decay": (
        lambda folder: make_learner(run_dir=folder).fit(1, wd=0.5),
        r"in fit 1, wd was \[0\.0\] and is \[0\.5\]",
    ),
    "optimizer": (
        lambda folder: make_learner(run_dir=folder, opt_func=torch.optim.SGD).fit(1),
        r"in fit 1, .*optimizer was weight_decay, sgd_step and is torch\.optim\.SGD",
    ),
    "loss": (
        lambda folder: make_learner(run_dir=folder, loss_func=torch.nn.functional.cross_entropy).fit(1),
        "in fit 1, loss was CrossEntropyLoss and is cross_entropy",
    ),
    "augmentation": (
        lambda folder: make_learner(dls=jittered(make_dls()), run_dir=folder).fit(1),
        r"in fit 1, batch_tfms was Pipeline: identity and is Pipeline: Wobble\(\)",
    ),
    "what is frozen": (
        lambda folder: frozen(make_learner(run_dir=folder)).fit(1),
        "in fit 1, frozen parameters was 0 and is 2",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_programs_run_is_not_mixed_with_and_the_difference_is_named(tmp_path: Path, what: str) -> None:
    make_learner(run_dir=tmp_path).fit(1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    give_back_run_directories()
    other, difference = OTHERS[what]
    with pytest.raises(
        ConfigError,
        match=rf"^{tmp_path} holds another program's run: {difference}.*\. To begin anew there use DIST_AI_FRESH=1 before the "
        r"command, or Learner\(fresh=True\); or use another run directory$",
    ):
        other(tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_in_a_notebook_the_right_call_works_after_the_wrong_one(tmp_path: Path) -> None:
    first = make_learner(run_dir=tmp_path)
    first.fit(1)
    give_back_run_directories()
    learn = make_learner(run_dir=tmp_path)
    with pytest.raises(ConfigError, match="n_epoch was 1 and is 2"):
        learn.fit(2)
    learn.fit(1)
    assert torch.equal(weights_of(learn.model), weights_of(first.model))
    assert checkpoints(tmp_path) == ["fit-0001-done"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": nn.Sequential(nn.Linear(4, 3)).double()}, r"has '0\.weight' in shape \(6, 4\) and not \(3, 4\)\."),
        ({"model": nn.ModuleDict({"a": nn.Linear(4, 3)}).double()}, r"has no weights for 'a\.weight'\."),
    ],
)
def test_another_model_is_named(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    make_learner(run_dir=tmp_path).fit(1)
    give_back_run_directories()
    with pytest.raises(
        ArtifactError, match=rf"^the checkpoint in {tmp_path}.*{said}.* To begin anew there use DIST_AI_FRESH=1"
    ):
        make_learner(run_dir=tmp_path, **options).fit(1)


@pytest.mark.parametrize("asked_by", ["argument", "variable"])
def test_a_fresh_run_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_by: str) -> None:
    first = make_learner(run_dir=tmp_path)
    first.fit(1)
    give_back_run_directories()
    if asked_by == "variable":
        monkeypatch.setenv("DIST_AI_FRESH", "1")
    learn = make_learner(run_dir=tmp_path, fresh=asked_by == "argument")
    learn.fit(2)
    assert len(learn.recorder.losses) == 2 * NUM_STEPS
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3  # the head and the two epochs of this run


def fit_in(run_dir: str, n_epoch: int) -> str:
    try:
        make_learner(run_dir=run_dir).fit(n_epoch)
    except ConfigError as error:
        return str(error)
    return ""


def test_all_ranks_get_the_same_error_about_a_directory_of_another_program(spawn: Any, tmp_path: Path) -> None:
    make_learner(run_dir=tmp_path).fit(1)
    held = spawn(2, fit_in, run_dir=str(tmp_path), n_epoch=1)  # this process still trains there
    assert held[0] == held[1]
    assert "is training in" in held[0]
    give_back_run_directories()
    other = spawn(2, fit_in, run_dir=str(tmp_path), n_epoch=2)
    assert other[0] == other[1]
    assert "n_epoch was 1 and is 2" in other[0]


# ------------------------------------------------------------------------------------------------ which directory


def test_without_a_run_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learn = make_learner(run_dir=None)
    learn.fit(1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        ConfigError, match=r"there is no run directory to write a checkpoint to; give Learner\(run_dir="
    ):
        learn.save_checkpoint()


def directory(given: Any) -> Path | None:
    """Returns where a Learner would write that is not made in the end."""
    place = None
    with contextlib.suppress(Stop), run_places.claimed(given) as place:
        raise Stop
    return place and place.directory


def test_the_directory_is_what_was_given_or_launched_or_named_by_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    assert directory(None) is None
    assert directory("a/b") == Path("a/b")
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert directory("auto") is None  # an interactive session
    main.__file__ = "/somewhere/train_cats.py"
    assert directory("auto") == Path("runs/train_cats")
    monkeypatch.setenv("DIST_AI_RUN_DIR", "/runs/7")
    with run_places.claimed("auto") as first, run_places.claimed("auto") as second:
        assert (first, second) == ((Path("/runs/7"), None), (Path("/runs/7/learner-2"), None))
        assert directory("auto") == directory("/runs/7") == Path("/runs/7/learner-3")
    run_places.give_back(Path("/runs/7"))
    assert directory("auto") == Path("/runs/7")
    run_places.give_back(Path("/runs/7/learner-2"))
    main.__spec__ = object()  # python -m something
    monkeypatch.delenv("DIST_AI_RUN_DIR")
    assert directory("auto") is None


def test_two_learners_with_the_same_run_dir_have_fits_of_their_own_also_when_the_program_runs_again(
    tmp_path: Path,
) -> None:
    def two() -> list[Any]:
        learners = [make_learner(run_dir=tmp_path) for _ in range(2)]
        for learn, lr in zip(learners, (0.1, 0.01), strict=True):
            learn.fit(1, lr)
        seen = [(learn.run_dir, learn.recorder.losses, weights_of(learn.model).tolist()) for learn in learners]
        give_back_run_directories()
        return seen

    first = two()
    assert [run_dir for run_dir, *_ in first] == [tmp_path, tmp_path / "learner-2"]
    assert first[0][2] != first[1][2]
    assert two() == first
    assert checkpoints(tmp_path) == checkpoints(tmp_path / "learner-2") == ["fit-0001-done"]


def test_a_learner_made_after_an_interrupt_goes_on_and_the_interrupted_one_does_not_beside_it(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    def cell(*cbs: Callback) -> Learner:
        made.append(make_learner(run_dir=tmp_path, checkpoint_every_s=None, checkpoint_every_steps=1, cbs=cbs))
        made[-1].fit(2, 0.1)
        return made[-1]

    made: list[Learner] = []
    with pytest.raises(KeyboardInterrupt):
        cell(on("after_epoch", lambda learn: interrupt()))
    again = cell()
    assert again.run_dir == tmp_path
    assert again.recorder.losses[:NUM_STEPS] == made[0].recorder.losses
    with pytest.raises(
        ConfigError, match=f"another Learner of this program has gone on in {re.escape(str(tmp_path))} since"
    ):
        made[0].fit(1)


def test_a_learner_that_could_not_be_made_has_no_directory_and_one_that_was_closed_trains_no_more(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="is not a Callback"):
        make_learner(run_dir=tmp_path, cbs=[3])
    learn = make_learner(run_dir=tmp_path)
    assert learn.run_dir == tmp_path
    learn.fit(1)
    learn.close()
    again = make_learner(run_dir=tmp_path)
    again.fit(1)
    assert again.recorder.losses == learn.recorder.losses
    with pytest.raises(
        ConfigError, match=re.escape(f"learn.close() gave {tmp_path} free; make another Learner to train")
    ):
        learn.fit(1)


def test_two_learners_of_a_script_have_a_directory_each_and_both_are_restored(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    tests = Path(__file__).parents[1]
    script.write_text(
        textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(tests)!r})
            from toy import make_learner

            for lr in (0.1, 0.01):
                learn = make_learner(run_dir="auto")
                learn.fit(1, lr)
                print(learn.validate(), len(learn.recorder.losses))
        """)
    )

    def run() -> list[str]:
        done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first = run()
    assert len(first) == 2
    assert first[0] != first[1]
    assert checkpoints(tmp_path / "runs" / "two") == ["fit-0001-done"]
    assert checkpoints(tmp_path / "runs" / "two" / "learner-2") == ["fit-0001-done"]
    again = run()
    assert [line for line in again if line.startswith("[")] == first
    assert [re.sub(r":.*", "", line) for line in again[::2]] == ["runs/two", "runs/two/learner-2"]


# ------------------------------------------------------------------------------------------------ errors that are caught


def caught(run_dir: Path, *, at: int | None = 4) -> Learner:
    """Trains two fits, the first of which ends with an error before a batch, which the program catches."""
    learn = make_learner(run_dir=run_dir, checkpoint_every_s=None, checkpoint_every_steps=2)
    with contextlib.suppress(Stop):
        learn.fit(2, 0.1, cbs=[] if at is None else [StopAt(at)])
    learn.fit(1, 0.01)
    return learn


def test_a_fit_whose_error_the_program_caught_is_tried_again_and_those_after_it_are_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = caught(tmp_path)
    give_back_run_directories()
    capsys.readouterr()
    again = caught(tmp_path)
    assert torch.equal(weights_of(again.model), weights_of(first.model))
    assert again.recorder.losses == first.recorder.losses
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: fit 1 ended with a Stop when this program ran before; it is tried again",
        f"{tmp_path}: fit 2 is done already; its result is restored",
    ]
    assert checkpoints(tmp_path) == ["fit-0002-done"]


def test_killed_after_a_caught_error_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    undisturbed = weights_of(caught(tmp_path / "a").model)

    def killed() -> None:
        learn = make_learner(run_dir=tmp_path / "b", checkpoint_every_s=None, checkpoint_every_steps=2)
        with contextlib.suppress(Stop):
            learn.fit(2, 0.1, cbs=StopAt(4))
        learn.fit(1, 0.01, cbs=StopAt(2))

    with pytest.raises(Stop):
        killed()
    give_back_run_directories()
    assert torch.equal(weights_of(caught(tmp_path / "b").model), undisturbed)


def test_where_the_error_does_not_come_again_what_was_trained_after_it_is_not_mixed_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caught(tmp_path)
    give_back_run_directories()
    capsys.readouterr()
    with pytest.raises(ConfigError) as refused:
        caught(tmp_path, at=None)
    assert str(refused.value) == (
        f"{tmp_path} holds another program's run: fit 1 ended with a Stop, and now it ended well. {how_to_begin_anew()}"
    )
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{tmp_path}: fit 1 ended well this time, which is not kept: the run has what was trained after its error. "
        f"{how_to_begin_anew()}"
    )
