"""Makes ``docs/events.md`` of the drawing of the loop and of the cases that `test_event` runs.

python tests/callbacks/event_page.py
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "events.md"

TEXT = """\
# The events of the loop

This page is made from the code and its tests by `python tests/callbacks/event_page.py`, and a test holds it current.

## In order

```
{drawing}
```

## What runs after a stop

A fit of two epochs of three batches; the stop comes in the second training batch, the second validation batch, or the first
time that an event between batches comes. Each row ends with the event in which the loop is back in its usual order, or
with `after_fit`. Each case runs on one process, and on three with the stop on one of them: weights, losses and epochs are
then those of one process. The other ranks learn of a stop in a batch before the optimizer's step, and run the batch's events up
to `before_step` first.

{table}

## Other ways out

| way | what runs | what is left |
|---|---|---|
{others}

On every way out the model has its own layers and is in evaluation mode, gradients are dropped, callbacks given to the fit are
detached, and the next fit is what it would be without this one.
"""

OTHERS = [
    (
        "return",
        "every event in order, `after_fit` last",
        "everything trained; with a run directory, the fit's end is saved",
    ),
    (
        "an error, in a callback or elsewhere",
        "`after_fit` of every callback; `state.exception` is the error",
        "the weights of the last step. An error in a callback says which, with event, epoch, step and rank, in a note",
    ),
    (
        "Ctrl-C, SIGTERM or SIGHUP without a run directory",
        "Ctrl-C: as an error. Others: what the signal does to any program",
        "Ctrl-C: the weights of the last step",
    ),
    (
        "Ctrl-C, SIGTERM or SIGHUP with a run directory",
        "the step under way to its `after_batch` on all ranks, then `after_fit`",
        "a checkpoint of that very step; `KeyboardInterrupt`, or `SystemExit` of 128 and the signal's number. A second "
        "signal is obeyed at once",
    ),
    ("SIGKILL, power", "nothing", "the last complete checkpoint"),
]

BACK = ("before_batch", "before_validate", "before_epoch", "after_fit")


def page() -> str:
    """Returns the page's text."""
    from test_event import stage_cases, training_cases, validation_cases

    from dist_ai.callbacks import event

    drawing = (event.__doc__ or "").split("```")[1].strip("\n")
    lines = ["| raised | in | what runs then |", "|---|---|---|"]
    for where, cases in (
        ("of a training batch", training_cases()),
        ("of a validation batch", validation_cases()),
        ("", stage_cases()),
    ):
        rows = [(case.cancel, case.first.split(" ")[-1], follows(case), case.event) for case in cases]
        for (cancel, first, then), same in groupby(rows, key=lambda row: row[:3]):
            events = [f"`{row[3]}`" for row in same]
            place = ", ".join(events) + f" {where}".rstrip() + (f" (after {first})" if first else "")
            lines.append(f"| `{cancel}` | {place} | {', '.join(f'`{each}`' for each in then)} |")
    others = "\n".join(f"| {' | '.join(row)} |" for row in OTHERS)
    return TEXT.format(drawing=drawing, table="\n".join(lines), others=others)


def follows(case: object) -> tuple[str, ...]:
    """Returns the events that come after the one in which a case raises, until the loop is back in its usual order."""
    log = case.log  # type: ignore[attr-defined]
    within_batches = 2 if case.event in IN_BATCH and not case.first else 1  # type: ignore[attr-defined]
    places = [i for i, each in enumerate(log) if each == case.event]  # type: ignore[attr-defined]
    if case.event in IN_BATCH and not case.training:  # type: ignore[attr-defined]
        places = [i for i in places if i > log.index("before_validate")]
    at = places[within_batches - 1]
    end = next((i for i in range(at + 1, len(log)) if log[i] in BACK), len(log) - 1)
    return log[at + 1 : end + 1]


IN_BATCH = (
    "before_batch",
    "after_pred",
    "after_loss",
    "before_backward",
    "after_backward",
    "before_step",
    "after_step",
    "after_batch",
)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
