"""Exchanges between the processes of a run; identities in a world of one.

`join` connects this process to its peers once and returns their `Collectives`. There are two implementations of
the one interface: `SoloCollectives`, where every call returns its input, and `GroupCollectives`, on gloo. What
uses them never asks which it has.

Two process groups are made: the default one (`cpu:gloo,cuda:nccl`) for gradients, which DDP uses, and a control
group (gloo, CPU tensors) for everything here, so that a slow metric never delays a gradient.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from dist_ai.distributed.environment import World, current_world, launch_settings, pulse_folder
from dist_ai.distributed.pulse import Pulse, Stage
from dist_ai.errors import CollectiveError, ConfigError, RendezvousError, WorldError

# torch is imported inside the functions that need it: the launchers live in this package, and only start processes.
if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup, Store

__all__ = [
    "Collectives",
    "GroupCollectives",
    "SoloCollectives",
    "across_groups",
    "beside",
    "gather_json",
    "join",
    "leave",
    "on_main",
    "require_same",
]

ReduceOp = Literal["sum", "max", "min"]


class Collectives(Protocol):
    """Exchanges between all ranks. Every rank makes the same calls in the same order.

    Attributes:
        waited_s: seconds that this rank has spent so far in them, and in what else is `waiting`: most of that, for others.
    """

    world: World
    waited_s: float

    def waiting(self) -> contextlib.AbstractContextManager[Any]:
        """Counts the time of the block as that in which this rank may wait for others."""
        ...

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "sum", *, what: str = "") -> torch.Tensor:
        """Returns the element-wise `op` over ranks, on the CPU; shapes and dtypes are equal on all ranks."""
        ...

    def all_gather_rows(self, tensor: torch.Tensor, *, what: str = "") -> torch.Tensor:
        """Returns the rows of all ranks, in rank order, on the CPU; ranks may hold different numbers of rows."""
        ...

    def broadcast(self, tensor: torch.Tensor, src: int = 0, *, what: str = "") -> torch.Tensor:
        """Returns rank `src`'s tensor, on the CPU; shapes and dtypes are equal on all ranks."""
        ...

    def broadcast_json(self, value: Any, src: int = 0, *, what: str = "") -> Any:
        """Returns rank `src`'s value, which must be plain data (None, bool, numbers, strings, lists, dicts)."""
        ...

    def barrier(self, *, what: str = "") -> None:
        """Waits until every rank is here."""
        ...


class SoloCollectives:
    """The collectives of a world of one: every call returns its input."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.waited_s = 0.0

    def waiting(self) -> contextlib.AbstractContextManager[Any]:
        """Counts nothing."""
        return contextlib.nullcontext()

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "sum", *, what: str = "") -> torch.Tensor:
        """Returns `tensor` on the CPU."""
        return tensor.detach().cpu()

    def all_gather_rows(self, tensor: torch.Tensor, *, what: str = "") -> torch.Tensor:
        """Returns `tensor` on the CPU."""
        return tensor.detach().cpu()

    def broadcast(self, tensor: torch.Tensor, src: int = 0, *, what: str = "") -> torch.Tensor:
        """Returns `tensor` on the CPU."""
        return tensor.detach().cpu()

    def broadcast_json(self, value: Any, src: int = 0, *, what: str = "") -> Any:
        """Returns `value`."""
        return value

    def barrier(self, *, what: str = "") -> None:
        """Returns at once."""


class GroupCollectives:
    """The collectives of several processes, over a gloo group of its own.

    Args:
        world: who this process is among them.
        group: torch's group of them.
        store: where they met.
        timeout_s: seconds after which an exchange is given up.
        name: for the keys of the store; no other exchanges of these processes have it.
        ranks: their ranks in the whole world, where they are some of it only.
    """

    def __init__(
        self,
        world: World,
        group: ProcessGroup,
        store: Store,
        *,
        timeout_s: float,
        name: str = "control",
        ranks: Sequence[int] | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self._ranks = range(world.world_size) if ranks is None else ranks
        self._group = group
        self._store = store
        self.timeout_s = timeout_s
        self._calls = 0
        self.waited_s = 0.0
        self._is_waiting = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of the block, once where there is another in it; see `Collectives`."""
        if self._is_waiting:
            yield
            return
        self._is_waiting, began = True, time.perf_counter()
        try:
            yield
        finally:
            self._is_waiting = False
            self.waited_s += time.perf_counter() - began

    def all_reduce(self, tensor: torch.Tensor, op: ReduceOp = "sum", *, what: str = "") -> torch.Tensor:
        """Returns the element-wise `op` over ranks; see `Collectives`."""
        import torch.distributed as dist

        ops = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
        result = tensor.detach().to("cpu", copy=True)
        with self._named("all_reduce", what):
            dist.all_reduce(result, op=ops[op], group=self._group)
        return result

    def all_gather_rows(self, tensor: torch.Tensor, *, what: str = "") -> torch.Tensor:
        """Returns the rows of all ranks in rank order; see `Collectives`."""
        import torch
        import torch.distributed as dist

        rows = tensor.detach().cpu().contiguous()
        counts = torch.zeros(self.world.world_size, dtype=torch.int64)
        counts[self.world.rank] = len(rows)
        counts = self.all_reduce(counts, what=what)
        # gloo's all_gather wants equal shapes, so each rank pads to the longest: costs at most one rank's rows.
        padded = rows.new_zeros((int(counts.max()), *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in counts]
        with self._named("all_gather_rows", what):
            dist.all_gather(received, padded, group=self._group)
        return torch.cat([part[:count] for part, count in zip(received, counts.tolist(), strict=True)])

    def broadcast(self, tensor: torch.Tensor, src: int = 0, *, what: str = "") -> torch.Tensor:
        """Returns rank `src`'s tensor; see `Collectives`."""
        import torch.distributed as dist

        result = tensor.detach().to("cpu", copy=True).contiguous()
        with self._named("broadcast", what):
            dist.broadcast(result, group_src=src, group=self._group)
        return result

    def broadcast_json(self, value: Any, src: int = 0, *, what: str = "") -> Any:
        """Returns rank `src`'s plain-data value; see `Collectives`."""
        import torch

        # JSON and not broadcast_object_list: the latter unpickles what a peer sent.
        text = bytearray(json.dumps(value).encode() if self.world.rank == src else b"")
        size = self.broadcast(torch.tensor([len(text)]), src, what=what)
        payload = torch.zeros(int(size), dtype=torch.uint8)
        if self.world.rank == src:
            payload[:] = torch.frombuffer(text, dtype=torch.uint8)
        return json.loads(self.broadcast(payload, src, what=what).numpy().tobytes())

    def barrier(self, *, what: str = "") -> None:
        """Waits until every rank is here; see `Collectives`."""
        import torch

        self.all_reduce(torch.zeros(1), what=what or "barrier")

    @contextlib.contextmanager
    def _named(self, call: str, what: str) -> Iterator[None]:
        """Turns a failed exchange into an error that names this rank, the call and who is missing."""
        self._calls += 1
        started = time.monotonic()
        try:
            with self.waiting():
                yield
        except RuntimeError as error:
            label = f"{call} number {self._calls}" + (f" ({what})" if what else "")
            seconds = time.monotonic() - started
            raise CollectiveError(
                f"rank {self._ranks[self.world.rank]}: {label} failed after {seconds:.1f} s: {self._missing_peers()}. "
                f"Look at the first error of that rank. The exchange itself said: {str(error).splitlines()[0]}"
            ) from error

    def _missing_peers(self) -> str:
        # Roll call after a failure: every rank that is still alive fails too and signs here; who does not is gone
        # (or stuck elsewhere). It costs nothing until something has failed.
        answers = f"failed/{self.name}/{self._calls}/"
        mine = self._ranks[self.world.rank]
        missing = set(self._ranks) - {mine}
        try:
            self._store.set(f"{answers}{mine}", "1")
            deadline = time.monotonic() + min(2.0, self.timeout_s)
            while missing and time.monotonic() < deadline:
                missing = {rank for rank in missing if not self._store.check([f"{answers}{rank}"])}
                time.sleep(0.02)
        except RuntimeError:
            return "the store that the ranks meet at is gone with its host (rank 0 or the launcher)"
        if not missing:
            return "all ranks are alive, so they made different calls"
        ranks = ", ".join(str(rank) for rank in sorted(missing))
        return f"rank(s) {ranks} did not take part (ended, or busy elsewhere)"


def on_main(collectives: Collectives, action: Callable[[], Any], *, what: str) -> Any:
    """Runs `action` on rank 0 while the others wait, however long it takes; where it fails, it fails on all ranks. Collective.

    Args:
        collectives: the ranks.
        action: what rank 0 does, such as writing files; nothing collective.
        what: a name for it, for messages.

    Returns:
        What `action` returned, on all ranks as it comes back from JSON: tuples as lists.

    Raises:
        TypeError: on rank 0, `action` returned what is no plain data.
        WorldError: on the other ranks, with rank 0's message; rank 0 raises the error itself.

    >>> on_main(join(), lambda: [1, 2], what="counting")
    [1, 2]
    """
    if not collectives.world.is_main:
        while (word := collectives.broadcast_json(None, what=what)) is None:
            pass  # rank 0 is still at it
        if word["problem"]:
            raise WorldError(f"rank {collectives.world.rank}: {what} failed on rank 0: {word['problem']}")
        return word["result"]
    failure: Exception | None = None
    result = None
    try:
        with _signs_of_life(collectives, what):
            result = json.loads(json.dumps(action()))  # here what the others get, too
    except Exception as error:
        failure = error
    if failure is None:
        collectives.broadcast_json({"problem": "", "result": result}, what=what)
        return result
    with contextlib.suppress(CollectiveError):  # a rank that is gone as well may be for the same reason, and says less
        collectives.broadcast_json({"problem": f"{type(failure).__name__}: {failure}"}, what=what)
    raise failure


@contextlib.contextmanager
def _signs_of_life(collectives: Collectives, what: str) -> Iterator[None]:
    """Tells the ranks that wait for this one, from a thread, that it is still at it, before they give it up."""
    if not isinstance(collectives, GroupCollectives):
        yield
        return
    done = threading.Event()

    def tell() -> None:
        while not done.wait(collectives.timeout_s / 4):
            collectives.broadcast_json(None, what=what)

    with ThreadPoolExecutor(1, thread_name_prefix="signs of life") as pool:
        telling = pool.submit(tell)
        try:
            yield
        finally:
            done.set()
    telling.result()  # a rank that went away meanwhile is an error here


def require_same(collectives: Collectives, facts: Mapping[str, object], *, what: str, remedy: str) -> None:
    """Checks that all ranks hold the same facts. Collective: one small exchange, if they do.

    Args:
        collectives: the ranks.
        facts: plain data by name, in an order; it is compared as JSON.
        what: what they are facts of, for messages.
        remedy: how to fix a difference.

    Raises:
        ConfigError: they differ; on every rank, with the first difference between rank 0 and the first rank that
            differs from it.
    """
    import torch

    if collectives.world.world_size == 1:
        return
    mine = {name: json.dumps(value, default=str) for name, value in facts.items()}
    digest = int.from_bytes(hashlib.sha256(json.dumps(list(mine.items())).encode()).digest()[:7])
    # The smallest and the largest of all digests, by one exchange.
    low, high = (
        -collectives.all_reduce(torch.tensor([-digest, digest]), "max", what=what) * torch.tensor([1, -1])
    ).tolist()
    if low == high:
        return
    theirs = collectives.broadcast_json(mine, what=what)
    difference = _first_difference(theirs, mine)
    rank = torch.tensor(collectives.world.rank if difference else collectives.world.world_size)
    first = int(collectives.all_reduce(rank, "min", what=what))
    difference = collectives.broadcast_json(difference, first, what=what)
    raise ConfigError(f"rank {first} and rank 0 disagree on {what}: {difference}; {remedy}")


def _first_difference(theirs: Mapping[str, str], mine: Mapping[str, str]) -> str:
    for name, value in theirs.items():
        if name not in mine:
            return f"{name} is missing there, and is {value} on rank 0"
        if mine[name] != value:
            return f"{name} is {mine[name]} there and {value} on rank 0"
    extra = next((name for name in mine if name not in theirs), None)
    if extra is not None:
        return f"{extra} is {mine[extra]} there, and missing on rank 0"
    swapped = next(((a, b) for a, b in zip(theirs, mine, strict=True) if a != b), None)
    return "" if swapped is None else f"{swapped[1]} stands there where rank 0 has {swapped[0]}"


def gather_json(collectives: Collectives, value: Any, *, what: str) -> list[Any]:
    """Returns the plain-data values of all ranks, in rank order, on all ranks. Collective.

    >>> gather_json(join(), {"step": 3}, what="where we are")
    [{'step': 3}]
    """
    import torch

    # Each with its length in front, 8 bytes: the ranks' rows come back joined.
    text = json.dumps(value).encode()
    mine = torch.frombuffer(bytearray(len(text).to_bytes(8, "little") + text), dtype=torch.uint8)
    joined = collectives.all_gather_rows(mine, what=what).numpy().tobytes()
    values, begin = [], 0
    while begin < len(joined):
        end = begin + 8 + int.from_bytes(joined[begin : begin + 8], "little")
        values.append(json.loads(joined[begin + 8 : end]))
        begin = end
    return values


def beside(collectives: Collectives, name: str, *, timeout_s: float) -> Collectives:
    """Returns exchanges between the same ranks over a group of their own, for a thread beside the training. Collective.

    Args:
        collectives: the ranks.
        name: of the group, for messages and for the keys of its store.
        timeout_s: seconds after which one of its exchanges is given up.
    """
    if not isinstance(collectives, GroupCollectives):
        return collectives
    import torch.distributed as dist

    store = dist.distributed_c10d._get_default_store()
    with _all_meeting(collectives.world, store, launch_settings().timeout_s):
        group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    return GroupCollectives(collectives.world, group, store, timeout_s=timeout_s, name=name)


def across_groups(collectives: Collectives, size: int) -> tuple[Collectives, ProcessGroup | None]:
    """Returns exchanges between this rank and those at its place in other groups of `size` neighbours. Collective.

    Of 4 ranks in groups of 2 these are ranks 0 and 2, and ranks 1 and 3. Their world counts the groups. Beside the exchanges
    comes torch's group of the same ranks for tensors on the device; None if there is one group only.

    Args:
        collectives: all ranks.
        size: ranks in a group; divides the world's size.
    """
    world = collectives.world
    num_groups, place = world.world_size // size, world.rank % size
    here = replace(world, rank=world.rank // size, world_size=num_groups)
    if num_groups == 1:
        return SoloCollectives(here), None
    import torch.distributed as dist

    timeout_s = launch_settings().timeout_s
    store = dist.distributed_c10d._get_default_store()
    with _all_meeting(world, store, timeout_s):
        # Every rank makes all of them, in the same order: torch numbers groups by that.
        made: list[Any] = []
        for backend in ("gloo", None):
            members = [list(range(first, world.world_size, size)) for first in range(size)]
            groups = [dist.new_group(each, backend=backend, timeout=timedelta(seconds=timeout_s)) for each in members]
            made.append(groups[place])
    control, on_device = made
    name, ranks = f"groups of {size}, place {place}", range(place, world.world_size, size)
    return GroupCollectives(here, control, store, timeout_s=timeout_s, name=name, ranks=ranks), on_device


_joined: Collectives | None = None


def join(world: World | None = None) -> Collectives:
    """Connects this process to its peers, once, and returns the exchanges with them.

    Args:
        world: who this process is; by default what `current_world` finds.

    Raises:
        RendezvousError: the peers were not found within the time limit, or the store's port is taken.

    >>> join().all_reduce(torch.tensor([2.0]))
    tensor([2.])
    """
    global _joined
    if _joined is None or (world is not None and world != _joined.world):
        world = current_world(world)
        _joined = SoloCollectives(world) if world.world_size == 1 else _connect(world)
    return _joined


def leave() -> None:
    """Ends what `join` began. Called at exit; call it yourself before joining another world."""
    global _joined
    import torch.distributed as dist

    if isinstance(_joined, GroupCollectives) and dist.is_initialized():
        dist.destroy_process_group()
    _joined = None


def _connect(world: World) -> GroupCollectives:
    import torch
    import torch.distributed as dist

    timeout_s = launch_settings().timeout_s
    timeout = timedelta(seconds=timeout_s)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    pulse = Pulse(pulse_folder(world), world.rank)
    pulse.beat(0, 0, 0, Stage.MEETING)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
        store = _open_store(world, timeout)
        with _all_meeting(world, store, timeout_s):
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.world_size, timeout=timeout)
    store = dist.distributed_c10d._get_default_store()
    with _all_meeting(world, store, timeout_s):
        control: Any = dist.new_group(backend="gloo", timeout=timeout)
    pulse.beat(0, 0, 0, Stage.OUTSIDE)
    # Registered after torch is loaded, so it runs before torch's own teardown.
    atexit.register(leave)
    return GroupCollectives(world, control, store, timeout_s=timeout_s)


@contextlib.contextmanager
def _all_meeting(world: World, store: Store, timeout_s: float) -> Iterator[None]:
    """Turns a failed meeting into an error that names who did not come. Every rank signs before it waits."""
    arrived = "arrived/"
    started = time.monotonic()
    try:
        store.set(f"{arrived}{world.rank}", "1")
        yield
    except (RuntimeError, ValueError) as error:
        place = f"{world}: the {world.world_size} processes did not meet at {world.store or 'their store'}"
        seconds = time.monotonic() - started
        missing = []
        # An exchange that fails early fails for a reason of its own (no such network interface, say).
        if seconds > 0.9 * timeout_s:
            with contextlib.suppress(RuntimeError):  # the store went with its host: torch's own words are all there is
                missing = [str(rank) for rank in range(world.world_size) if not store.check([f"{arrived}{rank}"])]
        if missing:
            raise RendezvousError(
                f"{place}: rank(s) {', '.join(missing)} did not come within {timeout_s:g} s. "
                "Look at what they printed; if they only start slowly, raise --timeout (DIST_AI_TIMEOUT_S)"
            ) from error
        raise RendezvousError(
            f"{place}: the exchange of addresses failed after {seconds:.1f} s: {str(error).splitlines()[0]}"
        ) from error


def _open_store(world: World, timeout: timedelta) -> Store:
    import torch.distributed as dist

    if world.store is None:
        raise ConfigError(f"{world}: no store to meet at; give World(store='file:///path' or 'tcp://host:port')")
    address = urlsplit(world.store)
    store: Store
    if address.scheme == "file":
        path = Path(world.store.removeprefix("file://"))  # not address.path: a folder's name may hold '#' or '?'
        path.parent.mkdir(parents=True, exist_ok=True)
        store = dist.FileStore(str(path), world.world_size)
        store.set_timeout(timeout)
    elif address.scheme == "tcp" and address.hostname and address.port:
        store = _open_tcp_store(world, address.hostname, address.port, timeout)
    else:
        raise ConfigError(f"store {world.store!r} is not 'file:///path' or 'tcp://host:port'")
    # A prefix for each attempt: without it a restarted rank reads the dead attempt's gloo addresses and hangs.
    return dist.PrefixStore(f"dist_ai/attempt_{world.attempt}" if world.keeps_store else "dist_ai", store)


def _open_tcp_store(world: World, host: str, port: int, timeout: timedelta) -> Store:
    import torch.distributed as dist

    opened: list[Store] = []
    failed: list[RuntimeError] = []

    def open_it() -> None:
        try:
            opened.append(
                dist.TCPStore(
                    host, port, world.world_size, is_master=world.hosts_store, timeout=timeout, wait_for_workers=False
                )
            )
        except RuntimeError as error:
            failed.append(error)

    # In a thread, because a client that reaches another program's port waits for its answer without any time limit.
    opening = threading.Thread(target=open_it, name="open-store", daemon=True)
    opening.start()
    opening.join(timeout.total_seconds() + 2)
    if opened:
        return opened[0]
    if failed:
        reason = str(failed[0]).splitlines()[0]
    else:
        reason = f"what listens there gave no answer within {timeout.total_seconds():g} s, so it is another program"
    if world.hosts_store:
        raise RendezvousError(
            f"rank {world.rank} could not open the store on {host}:{port}: {reason}. "
            "If the port is in use, choose another MASTER_PORT"
        ) from (failed[0] if failed else None)
    raise RendezvousError(
        f"rank {world.rank} could not reach the store at {host}:{port}: {reason}. "
        "Its host (rank 0, or torchrun) opens it: see that it runs, and that MASTER_PORT is a port that it could take"
    ) from (failed[0] if failed else None)
