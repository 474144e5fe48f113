"""The state of parameters: what steps keep from one call to the next, in tensors and numbers by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import torch

from dist_ai.errors import ConfigError
from dist_ai.optimizer.groups import ParamGroup
from dist_ai.optimizer.shards import Sharding

__all__ = ["Bucket", "ParamState", "Tensors", "buckets_of"]

Tensors: TypeAlias = list[torch.Tensor]


class Bucket:
    """Parameters of a group that are alike, and their state: multi-tensor operations take them all in one call.

    Alike means: the same device, dtype and sharding, and weight decay for all or for none. State has the dtype of
    the parameter, as torch's has; complex parameters are seen as real ones with one dim more.

    Attributes:
        tensors: by name, a state tensor for each parameter, or None where no step has asked for one.
        numbers: by name, a number for each parameter.
        complete: names of `tensors` that have one for every parameter.
        ages: how many steps each parameter has taken.
        dense: whether state lies in memory as its parameter does, without gaps.
    """

    def __init__(self, names: Sequence[str], params: Sequence[torch.nn.Parameter], decays: bool) -> None:
        self.names, self.params, self.decays = list(names), list(params), decays
        first = self.params[0]
        self.device, self.dtype, self.sharding = first.device, first.dtype, Sharding.of(first)
        if first.is_complex() and self.sharding is not None:
            raise ConfigError(
                f"parameter {names[0]!r} is complex and sharded, which no optimizer here can do; "
                "keep its real and imaginary parts as two real parameters"
            )
        self.ages = [0] * len(self.params)
        self.tensors: dict[str, list[torch.Tensor | None]] = {}
        self.numbers: dict[str, list[float | None]] = {}
        self.complete: set[str] = set()
        self.dense = all(torch.empty_like(p).stride() == p.stride() for p in self.local(self.params))

    def local(self, tensors: Sequence[torch.Tensor]) -> Tensors:
        """Returns a list of the tensors as steps see them: this rank's shard of each, and real. They share memory."""
        if self.sharding is not None:
            return [self.sharding.local(tensor) for tensor in tensors]
        return [torch.view_as_real(tensor) for tensor in tensors] if self.dtype.is_complex else list(tensors)

    def ready(self) -> Iterator[tuple[Tensors, Tensors, ParamState]]:
        """Yields the parameters that have gradients, with those and with their state, by age; they grow older by one.

        Nearly always that is all of them at once, and then nothing is picked apart.
        """
        grads: list[Any] = [p.grad for p in self.params]
        members = [i for i, grad in enumerate(grads) if grad is not None]
        age = self.ages[0]
        if len(members) == len(grads) and self.ages.count(age) == len(grads):
            local = self.local(self.params)
            yield local, self.local(grads), ParamState(self, None, local, age + 1)
            self.ages[:] = [age + 1] * len(grads)
            return
        for age, some in self._by_age(members):
            local = self.local([self.params[i] for i in some])
            yield local, self.local([grads[i] for i in some]), ParamState(self, some, local, age + 1)
        for i in members:
            self.ages[i] += 1

    def aged(self) -> Iterator[tuple[Tensors, ParamState]]:
        """Yields the parameters that have taken steps, with their state, by age."""
        for age, some in self._by_age([i for i, age in enumerate(self.ages) if age]):
            local = self.local([self.params[i] for i in some])
            yield local, ParamState(self, some, local, age)

    def forget(self, name: str) -> None:
        """Drops the state tensors of that name."""
        self.tensors.pop(name, None)
        self.complete.discard(name)

    def clear(self) -> None:
        """Drops all state."""
        self.ages[:] = [0] * len(self.ages)
        self.tensors.clear()
        self.numbers.clear()
        self.complete.clear()

    def _by_age(self, members: Sequence[int]) -> list[tuple[int, list[int]]]:
        age_of = self.ages.__getitem__
        return [(age, list(same)) for age, same in groupby(sorted(members, key=age_of), key=age_of)]


class ParamState:
    """The state of some parameters of a bucket that have taken the same number of steps.

    `state["name"]` is the list of their tensors of that name, zeros when first asked for; they are changed in place.

    Attributes:
        step: the number of this step, from 1.
        decays: whether weight decay applies.
        dense: whether state lies in memory as its parameter does, without gaps.
    """

    __slots__ = ("_bucket", "_params", "_places", "decays", "dense", "step")

    def __init__(self, bucket: Bucket, places: list[int] | None, params: Tensors, step: int) -> None:
        self._bucket, self._places, self._params = bucket, places, params
        self.step, self.decays, self.dense = step, bucket.decays, bucket.dense

    def __getitem__(self, name: str) -> Tensors:
        return self._tensors(name, None)

    def begin(self, name: str, of: Tensors) -> Tensors:
        """Returns the list of that name, whose tensors begin as copies of those in `of`."""
        return self._tensors(name, of)

    def numbers(self, name: str, initial: float) -> list[float]:
        """Returns a number for each parameter: what `keep` was last given under that name, or `initial`."""
        kept = self._bucket.numbers.get(name)
        if kept is None:
            return [initial] * len(self._params)
        return [initial if (number := kept[i]) is None else number for i in self._range()]

    def keep(self, name: str, values: Sequence[float]) -> None:
        """Keeps a number for each parameter."""
        kept = self._bucket.numbers.setdefault(name, [None] * len(self._bucket.params))
        for i, value in zip(self._range(), values, strict=True):
            kept[i] = value

    @property
    def names(self) -> list[str]:
        """The parameters' names."""
        return [self._bucket.names[i] for i in self._range()]

    @property
    def whole_params(self) -> list[torch.nn.Parameter]:
        """The parameters themselves, to look at; steps change this rank's shard or the real view of each."""
        return [self._bucket.params[i] for i in self._range()]

    def norms(self, tensors: Tensors) -> torch.Tensor:
        """Returns the 2-norms of the whole tensors, shape (number of parameters,), at least float32. Collective if sharded."""
        dtype = torch.promote_types(tensors[0].dtype, torch.float32)
        norms = torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype))
        sharding = self._bucket.sharding
        return norms if sharding is None else sharding.sum(norms.square()).sqrt()

    def whole(self, tensors: Tensors) -> Tensors:
        """Returns the whole tensors, of which a rank may have a shard each. Collective if sharded."""
        sharding = self._bucket.sharding
        if sharding is None:
            return tensors
        return [sharding.whole(tensor, p) for tensor, p in zip(tensors, self.whole_params, strict=True)]

    def shards(self, tensors: Tensors) -> Tensors:
        """Returns this rank's shard of each of some whole tensors."""
        sharding = self._bucket.sharding
        return tensors if sharding is None else [sharding.local(tensor) for tensor in tensors]

    def subset(self, places: Sequence[int]) -> ParamState:
        """Returns the state of some of these parameters."""
        members = list(self._range())
        return ParamState(self._bucket, [members[i] for i in places], [self._params[i] for i in places], self.step)

    def _range(self) -> Sequence[int]:
        return range(len(self._params)) if self._places is None else self._places

    def _tensors(self, name: str, of: Tensors | None) -> Tensors:
        bucket = self._bucket
        kept: list[Any] = bucket.tensors.setdefault(name, [None] * len(bucket.params))
        if name not in bucket.complete:
            for place, i in enumerate(self._range()):
                if kept[i] is None:
                    kept[i] = torch.zeros_like(self._params[place], memory_format=torch.preserve_format)
                    if of is not None:
                        kept[i].copy_(of[place])
            if self._places is None:
                bucket.complete.add(name)
        return kept if self._places is None else [kept[i] for i in self._places]


def buckets_of(group: ParamGroup) -> list[Bucket]:
    """Returns a group's parameters in buckets of those that are alike."""
    alike: dict[Any, list[int]] = {}
    for i, (p, decays) in enumerate(zip(group.params, group.decays, strict=True)):
        alike.setdefault((p.device, p.dtype, Sharding.of(p), decays), []).append(i)
    return [
        Bucket([group.names[i] for i in some], [group.params[i] for i in some], group.decays[some[0]])
        for some in alike.values()
    ]
