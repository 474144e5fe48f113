"""`dist-ai watch`: shows how the ranks of a run are doing."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Annotated

import typer

from dist_ai.cli.control import SILENT_S, is_over, mailbox_of_run
from dist_ai.distributed.mailbox import Status

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = ["remark", "watch"]

# A rank counts as a straggler if it spends so many times the median of the ranks by itself, and so many ms more, and so large
# a part of a batch's time more: less is what ranks that share cores take turns in.
SLOWER, SLOWER_MS, SLOWER_SHARE = 1.5, 1.0, 0.15
QUIET_S = 10.0


def watch(
    run: Annotated[str, typer.Argument(help="The run directory.", metavar="RUN")],
    once: Annotated[bool, typer.Option("--once", help="Print one table and end, for scripts.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between looks.")] = 1.0,
) -> None:
    """Shows the ranks of the run in RUN, until it has ended or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    mailbox = mailbox_of_run(run)
    console = Console()
    if once:
        console = Console(width=None if console.is_terminal else 200)  # a file has no edge
        console.print(_view(run, mailbox.statuses(), console))
        return
    with Live(_view(run, mailbox.statuses(), console), console=console, auto_refresh=False) as live:
        while True:
            statuses = mailbox.statuses()
            live.update(_view(run, statuses, console), refresh=True)
            if statuses and all(each.stage == "outside" and is_over(each) for each in statuses):
                return
            time.sleep(every)


def _view(run: str, statuses: list[Status], console: Console) -> RenderableType:
    """Returns what to show: a row a rank with what is wrong at its end, or below all rows where a line has no room for it."""
    from rich.console import Group
    from rich.text import Text

    whole = _table(run, statuses)
    if console.measure(whole, options=console.options.update_width(_ANY_WIDTH)).maximum <= console.width:
        return whole
    said = [f"rank {each.rank}: {what}" for each in statuses if (what := remark(each, statuses))]
    return Group(_table(run, statuses, with_remarks=False), *(Text(f" {line}", style="red") for line in said))


_ANY_WIDTH = 1000


def _table(run: str, statuses: list[Status], *, with_remarks: bool = True) -> Table:
    from rich.table import Table

    table = Table(title=run, box=None, header_style="bold")
    several = len({status.host for status in statuses}) > 1
    heads = ("rank", *(("host",) if several else ()), *_HEADS, *([""] if with_remarks else []))
    for head in heads:
        table.add_column(head, justify="left" if head in ("host", "stage", "") else "right", no_wrap=True)
    for status in statuses:
        said = remark(status, statuses)
        host = [status.host] if several else []
        row = [str(status.rank), *host, *_row(status), *([said] if with_remarks else [])]
        table.add_row(*row, style="red" if said else None)
    if not statuses:
        table.caption = "no rank has told of itself yet"
    return table


_HEADS = ("fit", "epoch", "step", "stage", "loss", "samples/s", "own ms", "heard")


def _row(status: Status) -> list[str]:
    total = "?" if status.total_steps is None else str(status.total_steps)
    loss = "-" if status.loss is None else f"{status.loss:.4g}"
    return [
        *(str(each) for each in (status.fit, status.epoch, f"{status.step}/{total}", status.stage)),
        loss,
        f"{status.samples_per_s:.0f}",
        f"{status.own_ms:.1f}",
        f"{status.age_s:.1f}s ago",
    ]


def remark(status: Status, statuses: list[Status]) -> str:
    """Returns what is wrong with a rank among its peers, in a few words; "" if nothing is.

    >>> ranks = [Status(rank=rank, world_size=3, stage="data", own_ms=ms) for rank, ms in enumerate((2.0, 9.0, 2.5))]
    >>> [remark(each, ranks) for each in ranks]
    ['', 'straggler: the others wait for it', '']
    """
    if status.stage == "outside":
        return "ended" if is_over(status) else ""
    if status.age_s > SILENT_S:
        return "silent"
    if is_over(status):  # killed: it could not say so
        return "its process is gone"
    if status.quiet_s > QUIET_S and status.stage != "paused":
        return f"no progress for {status.quiet_s:.0f} s"
    median = statistics.median_low([each.own_ms for each in statuses])
    more = max(SLOWER_MS, SLOWER_SHARE * status.batch_ms)
    if len(statuses) > 1 and status.own_ms > max(SLOWER * median, median + more):
        return "straggler: the others wait for it"
    return ""
