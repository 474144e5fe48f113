"""Tells the outside how the run is doing, and does what it is told from there, on all ranks at the same step."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.checkpointer import BY_COMMAND, TO_RESIZE, Checkpointer
from dist_ai.callbacks.logs import RunLog
from dist_ai.callbacks.recorder import Recorder
from dist_ai.distributed.environment import launch_settings, pulse_folder
from dist_ai.distributed.mailbox import Answer, Command, Mailbox, MemoryMailbox, Status, mailbox_of
from dist_ai.distributed.pulse import Pulse, Stage
from dist_ai.distributed.reporter import Reporter
from dist_ai.errors import ConfigError

__all__ = ["RemoteControl"]


class RemoteControl(Callback):
    """Posts each rank's status to the run's mailbox, and does the commands that come from there.

    A thread beside the training reads and writes the mailbox; a batch costs a few microseconds. When rank 0's thread has
    found a command, its number is voted in with the other decisions, so all ranks do it before the same training step. The
    step stands in the answer, in ``log.jsonl`` and in the checkpoint. A run that goes on from an older checkpoint sets the
    same hyper-parameters before the same steps again, and does nothing else twice.

    Args:
        mailbox: by default the run directory's; without one, one in memory.
        every_s: seconds between the posts of a rank's status.

    Attributes:
        done: the number of the last command that was done.
        overrides: hyper-parameters that a command has set for the rest of this fit.
        mailbox: where statuses go and commands come from.
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after schedules; and `lr_find` has nothing to do with it
    may_cancel: ClassVar[bool] = False

    def __init__(self, mailbox: Mailbox | None = None, *, every_s: float = 0.5) -> None:
        self.done = 0
        self.overrides: dict[str, float | list[float]] = {}
        self.mailbox: Mailbox = MemoryMailbox() if mailbox is None else mailbox
        self._given, self._every_s = mailbox is not None, every_s
        self._replays: list[tuple[int, int, Command]] = []  # (fit, step, command), done again before the same step
        self._reporter: Reporter | None = None
        self._pulse = Pulse()
        self._began_before = self._held = False
        self._samples = self._batches = 0
        self._own_s = self._train_s = 0.0
        self._marks = (0.0, 0.0)
        self._last = (0.0, 0, 0, 0.0, 0.0)

    # ------------------------------------------------------------------------------------------------ the fit

    def before_fit(self) -> None:
        """Begins to report and to listen. Collective."""
        world, settings, run_dir = self.learn.collectives.world, launch_settings(), self.learn.run_dir
        self._recorder: Recorder = self.learn.callbacks.find(Recorder)
        if not self._given and run_dir is not None:
            self.mailbox = mailbox_of(run_dir)
        told: list[Any] = []
        if world.is_main:
            try:
                told = self._look_back()
            except OSError:
                told = []  # statuses and commands are not worth a training
        told = self.learn.collectives.broadcast_json(told, what="commands before")
        self._replays = [(fit, step, Command(**command)) for fit, step, command in told]
        folder = pulse_folder(world)
        self._pulse = Pulse(folder, world.rank)
        self._samples = self._batches = 0
        self._own_s, self._train_s, self._last = 0.0, 0.0, (time.monotonic(), 0, 0, 0.0, 0.0)
        self._beat(Stage.STARTING)
        self._reporter = Reporter(
            self.mailbox,
            self._status,
            self._pulse,
            is_main=world.is_main,
            stacks=(run_dir or Path()) / "logs" / f"stacks-rank{world.rank}.txt",
            hang_s=settings.hang_limit_s(world.world_size) if folder is None else None,  # else the launcher watches
            every_s=self._every_s,
        )
        self._reporter.start()

    def _look_back(self) -> list[tuple[int, int, dict[str, Any]]]:
        """Returns what an earlier attempt did after the checkpoint, to do again; rank 0 alone."""
        world = self.learn.collectives.world
        self.mailbox.keep_ranks(world.world_size)
        answers, commands = self.mailbox.answers(), self.mailbox.commands(after=self.done)
        if not self._began_before and world.attempt == 0:
            # What was asked of a run that has ended since; but a restart of the same run does it.
            for command in commands:
                if command.number not in answers and command.verb != "set":
                    self.mailbox.answer(Answer(number=command.number, ok=False, text="the run had ended before"))
        self._began_before = True
        done = [(answers[each.number], each) for each in commands if each.number in answers and each.verb == "set"]
        return [(answer.fit, answer.step, asdict(command)) for answer, command in done if answer.ok]

    def after_fit(self) -> None:
        """Ends what `before_fit` began."""
        self._beat(Stage.OUTSIDE)
        self.overrides, self._replays = {}, []
        if self._reporter is not None:
            self._reporter.stop()
            self._reporter = None

    def state_dict(self) -> dict[str, Any]:
        """Returns which commands are done, and what holds of them."""
        return {"done": self.done, "overrides": self.overrides} if self.done else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.done, self.overrides = state["done"], dict(state["overrides"])

    # ------------------------------------------------------------------------------------------------ a batch

    def before_train(self) -> None:
        """Begins to take the time that this rank spends by itself."""
        self._marks = self._clocks()

    def before_batch(self) -> None:
        """Sets what a command has set, before what a schedule set can count."""
        state = self.state
        if not state.training:
            self._beat(Stage.VALIDATE)  # predictions in the middle of a fit are progress too
            return
        self._beat(Stage.FORWARD)
        while self._replays and self._replays[0][:2] == (self._recorder.fit, state.train_step):
            self._do(self._replays.pop(0)[2], state.train_step)
        for name, value in self.overrides.items():
            self.learn.opt.set_hyper(name, value)

    def after_loss(self) -> None:
        """Tells all ranks of a new command; on rank 0."""
        state, reporter = self.state, self._reporter
        if reporter is None or not state.fitting:
            return
        if state.training:
            self._beat(Stage.BACKWARD)
        # What is to be done again comes first: it was first.
        if reporter.newest > self.done and not self._replays:
            self.learn.decisions.vote_command(reporter.newest)

    def after_batch(self) -> None:
        """Does the commands that the ranks have agreed on."""
        state = self.state
        if not state.fitting or self._reporter is None:
            return
        if state.training:
            self._samples += state.num_global if state.last_microbatch else 0
            self._batches += 1
            marks, self._marks = self._marks, self._clocks()
            self._own_s += max(0.0, self._marks[0] - marks[0])
            self._train_s += self._marks[1] - marks[1]
            self._beat(Stage.DATA)
        if state.command > self.done and state.last_microbatch:
            self._do_all(state.command)
            self._marks = self._clocks()  # a pause is no batch's time

    def after_validate(self) -> None:
        """Leaves a validation in the middle of an epoch out of the time of the next batch."""
        self._marks = self._clocks()

    def _clocks(self) -> tuple[float, float]:
        """Returns two clocks, in seconds, of which the first stands still while this rank may wait for others."""
        now, groups = time.perf_counter(), (self.learn.collectives, self.learn.data_collectives)
        return now - sum(each.waited_s for each in {id(group): group for group in groups}.values()), now

    def _beat(self, stage: Stage) -> None:
        state = self.state
        if self._reporter is None and stage not in (Stage.STARTING, Stage.OUTSIDE):
            return  # a validation on its own
        self._pulse.beat(self._recorder.fit, state.epoch, state.train_step, stage)

    # ------------------------------------------------------------------------------------------------ commands

    def _do_all(self, number: int) -> None:
        """Does the commands up to `number` that were not done yet. Collective."""
        told: list[dict[str, Any]] = []
        if self.learn.collectives.world.is_main:
            answers = self.mailbox.answers()
            commands = self.mailbox.commands(after=self.done)
            told = [
                asdict(each)
                for each in commands
                if each.number <= number and each.number not in answers and each.verb != "stacks"
            ]
        for each in self.learn.collectives.broadcast_json(told, what="commands"):
            command = Command(**each)
            if command.number > self.done:  # not done in a pause, by the command before it
                self._do(command, self.state.train_step + (1 if self.state.training else 0))
        self.done = max(self.done, number)

    def _do(self, command: Command, step: int) -> None:
        """Does a command before training step `step` of the fit, and answers it."""
        self.done = max(self.done, command.number)
        try:
            command.check()
        except ConfigError as error:  # somebody else wrote it, with the files of the mailbox
            self._tell(command, step, ok=False, text=str(error))
            return
        ok, text = True, str(command)
        if command.verb == "set":
            ok, text = self._set(command)
        elif command.verb == "workers":
            ok, text = self._resize(command.args["count"])
        elif command.verb == "checkpoint":
            self.state.save = True
        elif command.verb == "stop":
            self.state.leave, self._held = self.state.leave or BY_COMMAND, False
        elif command.verb == "resume":
            ok, text = (True, text) if self._held else (False, "it was not paused")
            self._held = False
        self._tell(command, step, ok=ok, text=text)
        if command.verb == "pause":
            self._pause()

    def _set(self, command: Command) -> tuple[bool, str]:
        opt = self.learn.opt
        before = {name: opt.get_hyper(name) for name in command.args if opt.has_hyper(name)}
        try:
            for name, value in command.args.items():
                opt.set_hyper(name, value)
        except ConfigError as error:
            for name, values in before.items():
                opt.set_hyper(name, values)
            return False, str(error)
        self.overrides.update(command.args)
        return True, str(command)

    def _resize(self, count: int) -> tuple[bool, str]:
        bounds, state = launch_settings().workers, self.state
        if bounds is None:
            return False, (
                "nobody can start this run again with another number of workers: only `dist-ai launch` on one machine or by "
                "Slurm does. Stop it, and start it with so many: it goes on from its checkpoint"
            )
        least, most = bounds
        if not least <= count <= most:
            return False, (
                f"the run was launched with --workers {least}:{most}; stop it, and launch it with --workers "
                f"{min(least, count)}:{max(most, count)}: it goes on from its checkpoint"
            )
        if state.leave:
            return False, "all ranks are leaving already"
        if count == self.learn.collectives.world.world_size:
            return True, f"workers {count}, as it has now"
        state.leave, state.workers, self._held = TO_RESIZE, count, False
        return True, f"workers {count}"

    def _pause(self) -> None:
        """Waits for the command to resume or to stop, or a signal. Collective; what was voted before is kept."""
        self._held = True
        state, decisions = self.state, self.learn.decisions
        checkpointer: Checkpointer | None = self.learn.callbacks.find(Checkpointer)
        with decisions.set_aside():
            while self._held and not state.leave:
                time.sleep(_PAUSE_S)
                self._beat(Stage.PAUSED)
                if checkpointer is not None:
                    checkpointer.vote_if_asked()
                if self._reporter is not None and self._reporter.newest > self.done:
                    decisions.vote_command(self._reporter.newest)
                word = decisions.exchange()
                state.leave = state.leave or word.leave
                if word.command > self.done:
                    self._do_all(word.command)
                if state.save and state.training:
                    self.learn.save_checkpoint()
                    state.save = False

    def _tell(self, command: Command, step: int, *, ok: bool, text: str) -> None:
        world = self.learn.collectives.world
        if not world.is_main:
            return
        with contextlib.suppress(OSError):  # a full disk: the command is done all the same
            self.mailbox.answer(Answer(number=command.number, ok=ok, fit=self._recorder.fit, step=step, text=text))
        log: RunLog | None = self.learn.callbacks.find(RunLog)
        if log is not None:
            facts = {"number": command.number, "verb": command.verb, "args": command.args, "ok": ok}
            log.write_command(len(self._recorder.sizes), facts)

    # ------------------------------------------------------------------------------------------------ the status

    def _status(self) -> Status:
        """Returns this rank's status; called by the reporter's thread, which only reads."""
        world, beat = self.learn.collectives.world, self._pulse.read()
        now, samples, batches = time.monotonic(), self._samples, self._batches
        own_s, train_s = self._own_s, self._train_s
        then, samples_then, batches_then, own_then, train_then = self._last
        if now - then > _RATE_S:
            self._last = (now, samples, batches, own_s, train_s)
        losses = self._recorder.losses
        return Status(
            rank=world.rank,
            world_size=world.world_size,
            host=_HOST,
            pid=os.getpid(),
            fit=beat.fit,
            epoch=beat.epoch,
            step=beat.step,
            total_steps=self.state.total_steps,
            stage=beat.stage.name.lower(),
            loss=losses[-1] if losses else None,
            samples_per_s=(samples - samples_then) / max(1e-9, now - then),
            own_ms=1e3 * (own_s - own_then) / max(1, batches - batches_then),
            batch_ms=1e3 * (train_s - train_then) / max(1, batches - batches_then),
            quiet_s=beat.quiet_s,
        )


_HOST = socket.gethostname()
_PAUSE_S = 0.1  # between two looks for the command to resume
_RATE_S = 3.0  # over which speeds are taken
