"""Training that leaves everything as it was: what tries something out, such as the learning rate finder, runs in it."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dist_ai.callbacks import Phase
from dist_ai.distributed.strategies import precision_of
from dist_ai.learner.parts import LearnerParts

__all__ = ["nothing_happened", "random_states", "set_random_states"]


@contextlib.contextmanager
def nothing_happened(learn: LearnerParts) -> Iterator[None]:
    """Undoes what training in the block changes: weights, optimizer, precision, callbacks, state and randomness."""
    tensors = [*learn.model.parameters(), *learn.model.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    modes = [(module, module.training) for module in learn.model.modules()]
    kept_cbs = [(each, copy.deepcopy(each.state_dict())) for each in learn.callbacks if each.phase < Phase.RECORD]
    state, random_before = learn.state.copy(), random_states()
    own, opt, precision = learn.own_optimizer, learn.own_optimizer.now, learn.precision
    # The optimizer itself steps aside, and a copy of it trains the same parameters.
    own.now = copy.deepcopy(own.get(), {id(p): p for p in learn.model.parameters()})
    learn.precision = precision_of(precision.name, learn.device, learn.data_collectives.world.world_size)
    learn.precision.load_state(precision.state())
    try:
        yield
    finally:
        own.now, learn.precision = opt, precision
        with torch.no_grad():
            for tensor, was in zip(tensors, before, strict=True):
                tensor.copy_(was)
        for module, training in modes:
            module.training = training
        for each, was_cb in kept_cbs:
            if was_cb:
                each.load_state_dict(was_cb)
        learn.state.become(state)
        set_random_states(random_before)


def random_states() -> tuple[Any, ...]:
    """Returns the states of all generators that a model or its data may draw from; `set_random_states` puts them back."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def set_random_states(states: tuple[Any, ...]) -> None:
    """Puts back what `random_states` returned."""
    cpu, cuda, numpy, python = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy)
    random.setstate(python)
