"""Commands from outside: done by all ranks before the same step, told, and neither lost nor repeated by a run that goes on."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from toy import Stop, StopAt, give_back_run_directories, make_learner, make_model, weights_of

from dist_ai.callbacks import EVENTS, Callback, RemoteControl
from dist_ai.checkpoint import Run
from dist_ai.distributed import join
from dist_ai.distributed.mailbox import Answer, mailbox_at
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss


class Sends(Callback):
    """Sends commands from rank 0 before training steps, counted over the fit, and waits until its rank has heard them."""

    may_cancel = True  # so that the ranks exchange at every step

    def __init__(self, *commands: tuple[int, str, dict[str, Any]]) -> None:
        self.left = list(commands)
        self.lrs: list[float] = []

    def before_batch(self) -> None:
        if not (self.learn.collectives.world.is_main and self.state.training):
            return
        while self.left and self.left[0][0] == self.state.train_step:
            _, verb, args = self.left.pop(0)
            hear(self.learn, mailbox_at(self.learn.run_dir or Path()).send(verb, args).number)

    def after_batch(self) -> None:
        if self.state.training:
            self.lrs += self.learn.opt.get_hyper("lr")


def hear(learn: Any, number: int) -> None:
    reporter = learn.callbacks.find(RemoteControl)._reporter
    deadline = time.monotonic() + 20
    while reporter.newest < number and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reporter.newest >= number


def learner(folder: Path, *cbs: Callback, **options: Any) -> Learner:
    return make_learner(run_dir=folder, cbs=list(cbs), checkpoint_every_s=None, **options)


def again(folder: Path, *cbs: Callback, **options: Any) -> Learner:
    give_back_run_directories()
    return learner(folder, *cbs, **options)


def answers(folder: Path) -> list[Answer]:
    return [answer for _, answer in sorted(mailbox_at(folder).answers().items())]


def set_on_ranks(folder: str) -> tuple[list[float], list[float]]:
    sends = Sends((2, "set", {"lr": 0.25}), (5, "set", {"lr": 0.125}))
    learn = learner(Path(folder), sends)
    learn.fit_one_cycle(3, 0.5)
    learn.fit(1, 0.75)
    return sends.lrs, weights_of(learn.model).tolist()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_hyper_parameter_is_set_before_the_same_step_on_all_ranks_whatever_its_schedule_says(
    spawn: Any, tmp_path: Path, world_size: int
) -> None:
    got = spawn(world_size, set_on_ranks, folder=str(tmp_path))
    lrs = got[0][0]
    assert all(each == got[0] for each in got)
    assert lrs[3:9] == [0.25] * 3 + [0.125] * 3
    assert not {0.25, 0.125} & set(lrs[:3])
    assert lrs[9:] == [0.75] * 3  # the next fit has its own
    assert answers(tmp_path) == [
        Answer(number=1, ok=True, fit=1, step=3, text="set lr=0.25"),
        Answer(number=2, ok=True, fit=1, step=6, text="set lr=0.125"),
    ]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["kind"] == "command"] == [
        {"kind": "command", "step": 3, "number": 1, "verb": "set", "args": {"lr": 0.25}, "ok": True},
        {"kind": "command", "step": 6, "number": 2, "verb": "set", "args": {"lr": 0.125}, "ok": True},
    ]
    assert [line["lr"] for line in lines if line["kind"] == "step"] == lrs
    ranks = mailbox_at(tmp_path).statuses()
    assert [(each.rank, each.world_size, each.stage) for each in ranks] == [
        (rank, world_size, "outside") for rank in range(world_size)
    ]


def test_what_cannot_be_set_is_answered_and_changes_nothing(tmp_path: Path) -> None:
    sends = Sends((1, "set", {"lr": 0.5, "lrr": 1.0}), (2, "set", {"lr": [0.1, 0.2]}), (3, "resume", {}))
    learn = learner(tmp_path, sends)
    learn.fit(2, 0.0625)
    assert set(sends.lrs) == {0.0625}
    unknown, groups, resume = answers(tmp_path)
    assert [each.ok for each in (unknown, groups, resume)] == [False] * 3
    assert unknown.text.startswith("this optimizer has no hyper-parameter 'lrr'; did you mean 'lr'?; it has lr, ")
    assert "2" in groups.text
    assert "1 group" in groups.text or "groups" in groups.text
    assert resume.text == "it was not paused"


class Writes(Sends):
    """Writes a command to the mailbox's files by hand."""

    def before_batch(self) -> None:
        while self.left and self.state.training and self.left[0][0] == self.state.train_step:
            number, (_, verb, args) = len(answers(Path(self.learn.run_dir or ""))) + 1, self.left.pop(0)
            folder = mailbox_at(self.learn.run_dir or Path()).folder / "commands"
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / "draft"
            draft.write_text(json.dumps({"number": number, "verb": verb, "args": args}))
            draft.rename(folder / f"{number}.json")
            hear(self.learn, number)


def test_what_was_written_to_the_mailbox_by_hand_is_refused_by_the_ranks(tmp_path: Path) -> None:
    writes = Writes((1, "set", {"lr": -1.0}), (2, "dance", {}), (3, "stop", {"now": True}))
    learner(tmp_path, writes).fit(2, 0.0625)
    assert set(writes.lrs) == {0.0625}
    assert [each.ok for each in answers(tmp_path)] == [False] * 3
    negative, unknown, extra = (each.text for each in answers(tmp_path))
    assert negative == "set lr=-1.0: lr is 0 or more"
    assert unknown.startswith("'dance' is not a command to a run: stop, ")
    assert extra == "stop takes no arguments; it was given now"


def stopped_on_ranks(folder: str) -> list[float]:
    stopped = learner(Path(folder), Sends((4, "stop", {})))
    with pytest.raises(SystemExit) as ended:
        stopped.fit_one_cycle(3, 0.5)
    assert ended.value.code == 143
    give_back_run_directories()
    learn = again(Path(folder), Sends())
    learn.fit_one_cycle(3, 0.5)
    return weights_of(learn.model).tolist()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_that_is_told_to_stop_goes_on_bit_for_bit_and_does_not_stop_again(
    spawn: Any, tmp_path: Path, world_size: int
) -> None:
    got = spawn(world_size, stopped_on_ranks, folder=str(tmp_path / "stopped"))
    assert answers(tmp_path / "stopped") == [Answer(number=1, ok=True, fit=1, step=5, text="stop")]
    if world_size == 1:
        whole = learner(tmp_path / "whole")
        whole.fit_one_cycle(3, 0.5)
        assert weights_of(whole.model).tolist() == got[0]


def test_a_run_that_goes_on_from_an_older_checkpoint_sets_the_same_before_the_same_step(tmp_path: Path) -> None:
    commands = [(1, "checkpoint", {}), (4, "set", {"lr": 0.25}), (6, "set", {"mom": 0.5})]
    whole = learner(tmp_path / "whole", Sends(*commands))
    whole.fit_one_cycle(3, 0.5)
    killed = learner(tmp_path / "killed", Sends(*commands), StopAt(8))
    with pytest.raises(Stop):
        killed.fit_one_cycle(3, 0.5)
    assert [name.rpartition("-")[2] for name in Run(tmp_path / "killed").names()] == ["00000002"]
    told = answers(tmp_path / "killed")
    resumed = again(tmp_path / "killed", Sends((8, "checkpoint", {})))
    resumed.fit_one_cycle(3, 0.5)
    assert weights_of(resumed.model).tolist() == weights_of(whole.model).tolist()
    assert answers(tmp_path / "killed")[:3] == told
    logged = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["verb"]) for line in logged if line["kind"] == "command"] == [
        (2, "checkpoint"), (5, "set"), (7, "set"), (9, "checkpoint"),
    ]  # fmt: skip


def test_what_a_run_had_not_come_to_is_set_by_the_next_but_an_old_stop_is_not_obeyed(tmp_path: Path) -> None:
    killed = learner(tmp_path, Sends(), StopAt(2))
    with pytest.raises(Stop):
        killed.fit(2, 0.5)
    mailbox_at(tmp_path).send("set", {"lr": 0.25})
    mailbox_at(tmp_path).send("stop")
    sends = Sends()
    again(tmp_path, sends).fit(2, 0.5)
    assert sends.lrs == [0.5] + [0.25] * 5
    assert answers(tmp_path) == [
        Answer(number=1, ok=True, fit=1, step=1, text="set lr=0.25"),
        Answer(number=2, ok=False, text="the run had ended before"),
    ]


def test_a_fresh_run_knows_nothing_of_earlier_commands(tmp_path: Path) -> None:
    learner(tmp_path, Sends((1, "set", {"lr": 0.25}))).fit(1, 0.5)
    sends = Sends()
    again(tmp_path, sends, fresh=True).fit(1, 0.5)
    assert sends.lrs == [0.5] * 3
    assert answers(tmp_path) == []


def paused_on_ranks(folder: str) -> list[Any]:
    sends = Sends((2, "pause", {}))
    learn = learner(Path(folder), sends)
    seen: list[Any] = []

    def goes_on() -> None:
        mailbox, deadline = mailbox_at(Path(folder)), time.monotonic() + 60
        while not (mailbox.answers() and mailbox.statuses()[0].stage == "paused") and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        seen.append([(each.rank, each.step, each.stage) for each in mailbox.statuses()])
        for verb, args in (("set", {"lr": 0.25}), ("checkpoint", {}), ("resume", {})):
            number = mailbox.send(verb, args).number
            while number not in mailbox.answers() and time.monotonic() < deadline:
                time.sleep(0.02)
            if verb == "checkpoint":
                while not Run(Path(folder)).names() and time.monotonic() < deadline:
                    time.sleep(0.02)
                seen.append(Run(Path(folder)).names())

    watcher = threading.Thread(target=goes_on)
    if join().world.is_main:
        watcher.start()
    learn.fit(2, 0.5)
    if join().world.is_main:
        watcher.join()
    return [seen, sends.lrs]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_pauses_is_told_what_to_do_and_goes_on(spawn: Any, tmp_path: Path, world_size: int) -> None:
    got = spawn(world_size, paused_on_ranks, folder=str(tmp_path))
    [where, checkpoints], _ = got[0]
    assert next(stage for _, _, stage in where) == "paused"
    assert checkpoints == ["fit-0001-epoch-0000-step-00000003"]
    assert all(lrs == [0.5] * 3 + [0.25] * 3 for _, lrs in got)
    assert [(each.ok, each.step) for each in answers(tmp_path)] == [(True, 3)] * 4


class WritesByHand(Callback):
    """Puts files into the mailbox that no `send` would have written, and waits until its rank has heard of each."""

    may_cancel = True  # so that the ranks exchange at every step

    def __init__(self, *contents: str) -> None:
        self.left = list(contents)

    def before_batch(self) -> None:
        if self.left and self.state.training and self.learn.collectives.world.is_main:
            commands = mailbox_at(self.learn.run_dir or Path()).folder / "commands"
            commands.mkdir(exist_ok=True)
            number = len(list(commands.iterdir())) + 1
            (commands / f"{number}.json").write_text(self.left.pop(0))
            hear(self.learn, number)


def obey_nothing(folder: str) -> list[float]:
    by_hand = WritesByHand(
        "[1]", '{"verb": ["x"]}', '{"verb": "stop", "args": [1]}', '{"verb": "set", "args": {"lr": -1}}'
    )
    learn = learner(Path(folder), by_hand)
    learn.fit(2)
    return weights_of(learn.model).tolist()


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_nobody_should_have_written_is_refused_and_trained_past(
    spawn: Any, tmp_path: Path, world_size: int
) -> None:
    undisturbed = make_learner()
    undisturbed.fit(2)
    for weights in spawn(world_size, obey_nothing, folder=str(tmp_path)):
        assert weights == pytest.approx(weights_of(undisturbed.model).tolist(), abs=1e-9)
    assert [each.ok for each in answers(tmp_path)] == [False] * 4
    assert answers(tmp_path)[3].text == "set lr=-1: lr is 0 or more"


class SlowIn(Callback):
    """Takes 0.1 s in one event of each training batch, on rank 1 alone; and a second in validation on all."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self._sleep)

    def _sleep(self) -> None:
        if self.state.training and self.learn.collectives.world.rank == 1:
            time.sleep(0.1)

    def before_validate(self) -> None:
        time.sleep(1.0)


def time_alone(folder: str, cases: list[tuple[str, str]]) -> list[tuple[float, float]]:
    measured = []
    for event, kind in cases:
        options: dict[str, Any] = {}
        if kind == "weights":
            options["loss_func"] = CrossEntropyLoss(weight=[1.0, 2.0, 3.0])
        if kind == "BatchNorm":
            options["model"] = make_model(batch_norm=True)
        learn = learner(Path(folder, event + kind), SlowIn(event), **options)
        learn.fit(1, valid_every=2)
        control = learn.callbacks.find(RemoteControl)
        measured.append((1e3 * control._own_s / control._batches, 1e3 * control._train_s / control._batches))
    return measured


_IN_A_BATCH = ("batch", "pred", "loss", "backward", "step")


def test_whatever_a_rank_is_slow_in_it_is_the_one_with_more_time_of_its_own(spawn: Any, tmp_path: Path) -> None:
    events = [each for each in EVENTS if each.endswith(_IN_A_BATCH) and "cancel" not in each]
    cases = [*((event, "plain") for event in events), ("before_batch", "weights"), ("before_batch", "BatchNorm")]
    ranks = spawn(2, time_alone, folder=str(tmp_path), cases=cases)
    for case, (fast, together), (slow, _) in zip(cases, *ranks, strict=True):
        assert slow > fast + 50, case
        assert slow > 100, case
        assert together < 400, case  # without the validation, a second for 3 batches
