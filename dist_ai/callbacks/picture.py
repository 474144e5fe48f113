"""The loop as it is drawn in `dist_ai.callbacks.event`, with the callbacks that run at each event."""

from __future__ import annotations

import re

from dist_ai.callbacks import event as drawn
from dist_ai.callbacks.callback import Callbacks
from dist_ai.callbacks.event import EVENTS

__all__ = ["training_loop"]


def training_loop(callbacks: Callbacks) -> str:
    """Returns the drawing of the loop with the names of the callbacks beside the events that they do something in."""
    drawing = (drawn.__doc__ or "").split("```")[1].strip("\n").splitlines()
    lines = []
    for line in drawing:
        indent = line[: len(line) - len(line.lstrip())]
        events = [word for word in re.split(r",\s*|\s+", line.strip()) if word in EVENTS]
        if line.lstrip().split(" ")[0].rstrip(",") not in EVENTS:
            lines.append(
                re.split(r"\s{3,}", line.rstrip())[0] if not indent else indent + re.split(r"\s{3,}", line.strip())[0]
            )
            continue
        for event in events:
            names = ", ".join(_name(each) for each in callbacks.of_event(event))
            lines.append(f"{indent + event:<26}{names}".rstrip())
    cancelled = [
        f"{event:<26}{', '.join(_name(each) for each in callbacks.of_event(event))}"
        for event in EVENTS
        if event.startswith("after_cancel_") and callbacks.of_event(event)
    ]
    return "\n".join([*lines, *(["", "where a stage is cancelled:", *cancelled] if cancelled else [])])


def _name(callback: object) -> str:
    text = repr(callback)
    return text if text.startswith("on(") else type(callback).__name__
