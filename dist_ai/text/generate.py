"""Text from a language model: drawn token by token, or by beam search."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Protocol

import torch

from dist_ai.errors import ConfigError, DataError

__all__ = ["beam_search", "filtered", "generate"]


class Continues(Protocol):
    """What generation needs of a model."""

    def continued(self, ids: torch.Tensor, state: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Any]:
        """Returns the logits of what follows `ids`, (batch, tokens), and the state after them; its tensors' rows are texts."""
        ...


def filtered(
    logits: torch.Tensor, *, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None
) -> torch.Tensor:
    """Returns logits in which the unlikely tokens are out of the question (-inf).

    Args:
        logits: (batch, tokens).
        top_k: keep the likeliest so many; of equally likely ones those with the lowest ids.
        top_p: keep the likeliest that together have this probability (nucleus sampling, arXiv:1904.09751).
        min_p: keep those of at least this probability, in what the other two have left; the likeliest one always.

    Raises:
        ConfigError: an argument that cannot work.

    >>> filtered(torch.tensor([[1.0, 3.0, 2.0]]), top_k=2)
    tensor([[-inf, 3., 2.]])
    """
    for name, value, most in (("top_p", top_p, 1.0), ("min_p", min_p, 1.0)):
        if value is not None and not (isinstance(value, Real) and 0 < value <= most):
            raise ConfigError(f"{name}={value}: expected a probability above 0 and up to 1")
    if top_k is not None:
        _require_whole(top_k=top_k)
        beyond = logits.sort(descending=True, stable=True).indices[:, top_k:]
        logits = logits.scatter(-1, beyond, -torch.inf)
    if top_p is not None:
        ordered, places = logits.softmax(-1).sort(descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p  # the first that reaches it stays
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), -torch.inf)
    if min_p is not None:
        probable = logits.softmax(-1)
        out = (probable < min_p) & (probable < probable.amax(-1, keepdim=True))
        logits = logits.masked_fill(out, -torch.inf)
    return logits


@torch.no_grad()
def generate(
    model: Continues,
    ids: torch.Tensor,
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    forbidden: tuple[int, ...] = (),
    stop: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Returns the ids of `n` tokens that follow, each drawn by its probability. The same for a seed on any device and rank.

    Args:
        model: in evaluation mode.
        ids: the begin, int64 (tokens,), at least one.
        n: tokens; fewer after `stop`.
        temperature: below 1 makes likely tokens likelier; 0 takes the likeliest.
        top_k, top_p, min_p: see `filtered`. They are of the probabilities behind the temperature, as in transformers; fastai's
            `min_p` is of those before it.
        forbidden: tokens that never come.
        stop: the token that ends the text.
        seed: of the draws.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: the model predicts NaN.
    """
    _require_whole(n=n)
    if not (isinstance(temperature, Real) and 0 <= temperature < math.inf):
        raise ConfigError(f"temperature={temperature!r}: expected a number of 0 or more")
    draws = torch.Generator().manual_seed(seed)
    new: list[int] = []
    state: dict[str, torch.Tensor] = {}
    step = ids[None]
    while len(new) < n:
        logits, state = model.continued(step, state)
        scores = _allowed(logits, forbidden)
        if temperature == 0:
            token = int(scores.argmax())
        else:
            kept = filtered(scores / temperature, top_k=top_k, top_p=top_p, min_p=min_p)
            token = int(torch.multinomial(kept.softmax(-1)[0], 1, generator=draws))
        new.append(token)
        if token == stop:
            break
        step = ids.new_tensor([[token]])
    return new


@torch.no_grad()
def beam_search(
    model: Continues,
    ids: torch.Tensor,
    n: int,
    *,
    beam: int = 5,
    forbidden: tuple[int, ...] = (),
    stop: int | None = None,
) -> list[int]:
    """Returns the ids of the likeliest `n` tokens that follow, as far as keeping the `beam` best begins finds them.

    Args:
        model, ids, n, forbidden, stop: see `generate`. A text that has come to `stop` competes by its mean probability a token.
        beam: begins that are kept.

    Raises:
        ConfigError: `beam` or `n` is no whole number, or below 1.
        DataError: the model predicts NaN.
    """
    _require_whole(beam=beam, n=n)
    logits, state = model.continued(ids[None], {})
    first = _allowed(logits, forbidden).log_softmax(-1)[0]
    scores, tokens = first.topk(min(beam, int(first.isfinite().sum())))
    texts = [[token] for token in tokens.tolist()]
    state = {name: each.expand(len(texts), *each.shape[1:]).contiguous() for name, each in state.items()}
    done: list[tuple[float, list[int]]] = []
    for _ in range(n - 1):
        if stop is not None:
            done += [(float(s) / len(t), t) for s, t in zip(scores, texts, strict=True) if t[-1] == stop]
            scores = scores.masked_fill(torch.tensor([text[-1] == stop for text in texts]), -torch.inf)
        if not scores.isfinite().any():
            break
        step = torch.tensor([[text[-1]] for text in texts], device=ids.device)
        logits, state = model.continued(step, state)
        each = scores[:, None] + _allowed(logits, forbidden).log_softmax(-1)
        scores, flat = each.flatten().topk(min(beam, each.numel()))
        parents = flat // each.shape[1]
        texts = [[*texts[p], t] for p, t in zip(parents.tolist(), (flat % each.shape[1]).tolist(), strict=True)]
        state = {name: rows.index_select(0, parents.to(rows.device)) for name, rows in state.items()}
    done += [(float(s) / len(t), t) for s, t in zip(scores, texts, strict=True)]
    return max(done, key=lambda scored: scored[0])[1]


def _allowed(logits: torch.Tensor, forbidden: tuple[int, ...]) -> torch.Tensor:
    """Returns the logits on the CPU, in float32, of the tokens that may come."""
    scores = logits.detach().float().cpu().clone()
    if scores.isnan().any() or scores.isposinf().any():
        raise DataError(
            "the model predicts NaN or infinity for what follows, so nothing can be written: look for such weights "
            "(learn.model.parameters()), train with a lower learning rate, or compute in float32"
        )
    scores[:, list(forbidden)] = -torch.inf
    return scores


def _require_whole(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name}={value!r}: expected a whole number of at least 1")
