"""The training loop, with every event in it.

```
Learner.fit
  before_fit
  for each epoch
    before_epoch
      before_train
      for each training batch
        before_batch            state.batch, state.xb, state.yb are there and may be replaced
          pred = model(xb)      in the Learner's precision; what comes of it is float32
        after_pred              state.pred
          loss = loss_func(pred, yb)
        after_loss              state.loss is the mean over this rank's share, state.weight its part of the step's
        before_backward
          loss.backward()       gradients are exchanged between ranks
        after_backward          the parameters' gradients are those of the global batch, on every rank
        before_step             (this and the next two only at the step's last batch, where gradients are accumulated)
          (decisions of all ranks are exchanged)
          opt.step()
        after_step
          opt.zero_grad()
        after_batch
      after_train
      before_validate
      for each validation batch
        before_batch, after_pred, after_loss, after_batch
      after_validate
    after_epoch
  after_fit                     always, on every way out: return, cancel, error, Ctrl-C
```

Raising a `Cancel...` exception in an event skips to the end of that stage: `after_cancel_batch` and then `after_batch`
run for `CancelBatch`, and so on. On several ranks a cancel raised on one is taken by all of them at the same step:
before the optimizer's step the ranks exchange what they decided. A rank that cancels its batch still takes part in the
exchange of gradients, with weight zero. Where a step takes several batches, they are cancelled together, as the one batch
that they stand for.

With `AutoMicrobatch` the events of a batch come for each part of it. A step for which a rank had no memory ends on all
ranks as if its batch were cancelled, but that `state.last_microbatch` is False then, and comes again.

`CancelBackward` is for a callback that has run a backward pass of its own, with ``learn.backward(loss)``: the step
follows, with the gradients that are there. On a rank where none was run it drops those of the whole step, on all ranks.

From `before_batch` to `before_step` a cancel holds at once: no other callback runs in that event on that rank. In all
other events the other callbacks run first, so that each sees the same events on every rank; a cancel raised in
`after_step`, `after_batch` or an `after_cancel_...` holds from the end of that batch or stage. There it is too late to
cancel that stage itself, which changes nothing; to cancel a stage that is not under way at all is an error.
"""

from __future__ import annotations

from dist_ai.distributed.coordination import Decision

__all__ = [
    "EVENTS",
    "CancelBackward",
    "CancelBatch",
    "CancelEpoch",
    "CancelException",
    "CancelFit",
    "CancelStep",
    "CancelTrain",
    "CancelValidate",
]

_STAGES = ("fit", "epoch", "train", "validate", "batch", "backward", "step")

EVENTS: tuple[str, ...] = (
    *(f"{when}_{stage}" for stage in _STAGES for when in ("before", "after", "after_cancel")),
    "after_pred",
    "after_loss",
)
"""Every event's name. `before_*` and `after_*` frame a stage; `after_cancel_*` runs when it was cancelled."""


class CancelException(Exception):
    """Base of the exceptions that cancel a stage of the loop; they are control flow, not errors."""

    decision: Decision
    alike = False  # whether every rank raises it, in the same event


class CancelBackward(CancelException):
    """Skips the backward pass of this batch, or takes that of a callback for it; the step still runs.

    Without any backward there are no gradients, on any rank, and so the step leaves the parameters as they are.
    """

    decision = Decision.CANCEL_BACKWARD


class CancelStep(CancelException):
    """Skips the optimizer's step of this batch and drops its gradients; `after_step` and `after_batch` still run."""

    decision = Decision.CANCEL_STEP


class CancelBatch(CancelException):
    """Skips the rest of this batch."""

    decision = Decision.CANCEL_BATCH


class CancelTrain(CancelException):
    """Skips the rest of the epoch's training batches; validation follows."""

    decision = Decision.CANCEL_TRAIN


class CancelValidate(CancelException):
    """Skips the rest of this validation."""

    decision = Decision.CANCEL_VALIDATE


class CancelEpoch(CancelException):
    """Skips the rest of this epoch, validation included."""

    decision = Decision.CANCEL_EPOCH


class CancelFit(CancelException):
    """Ends the fit."""

    decision = Decision.CANCEL_FIT


CANCELS: dict[Decision, type[CancelException]] = {cls.decision: cls for cls in CancelException.__subclasses__()}
