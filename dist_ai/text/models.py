"""Models of texts: an encoder, and a decoder for language models or a head for classifiers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from dist_ai.core.registry import Registry
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.export import register_builder
from dist_ai.layers import SeededDropout, SigmoidRange
from dist_ai.layers.mlp import require_sizes
from dist_ai.text.awd_lstm import AWD_LSTM, RNNDropout, State
from dist_ai.text.transformer import Transformer

__all__ = [
    "LanguageModel",
    "TextClassifier",
    "architectures",
    "masked_concat_pool",
    "name_of",
    "text_classifier",
    "text_language_model",
    "text_splitter",
]

architectures: Registry[Callable[..., nn.Module]] = Registry(
    "text architecture", "decorate the function that makes it with @dist_ai.text.architectures.register(name)"
)
"""Encoders by name. Each takes (vocab_sz, pad_token=, **config); forward makes ((batch, time, features), state) of (ids, state);
it has `out_features`, and `groups()` that are frozen together."""

architectures.add("awd_lstm", AWD_LSTM)
architectures.add("gpt", Transformer)
architectures.add("transformer", partial(Transformer, causal=False))

# fastai's, from the paper: a language model sees much text, a classifier little.
_DROPOUT = {
    "lm": {"input_p": 0.25, "hidden_p": 0.15, "embed_p": 0.02, "weight_p": 0.2, "output_p": 0.1},
    "classifier": {"input_p": 0.4, "hidden_p": 0.3, "embed_p": 0.05, "weight_p": 0.5, "output_p": 0.4},
}


class LanguageModel(nn.Module):
    """Predicts each next token.

    Args:
        encoder: see `architectures`.
        vocab_sz: tokens.
        output_p: dropout of the features before the decoder.
        tie_weights: whether the decoder's weights are the embedding's.
        regularized: in training, also return the features before and after the dropout, for `RNNRegularizer`.

    Attributes:
        carried: see `CarryState`; a recurrent model goes on with it.

    Input: (batch, time) ids; output: (batch, time, vocab_sz) logits.
    """

    # The same part of the weights as the embedding, which they may be.
    tensor_parallel_plan: ClassVar[dict[str, str]] = {"decoder": "rowwise_split_input"}

    def __init__(
        self,
        encoder: nn.Module,
        vocab_sz: int,
        *,
        output_p: float = 0.1,
        tie_weights: bool = True,
        regularized: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.output_dropout = RNNDropout(output_p)
        self.decoder = nn.Linear(encoder.out_features, vocab_sz)  # type: ignore[arg-type]  # torch takes attributes for tensors
        nn.init.zeros_(self.decoder.bias)
        if tie_weights:
            # One parameter in two places, and not one that is lent: a strategy sees that they belong together.
            self.decoder.weight = encoder.embedding.weight  # type: ignore[assignment,union-attr]
        self.regularized = regularized
        self.recurrent = isinstance(encoder, AWD_LSTM)
        self.carried: State | None = None

    def forward(self, ids: torch.Tensor) -> Any:
        """Returns the logits; in training of a regularized model (logits, features, features after dropout)."""
        raw, after = self.encoder(ids, self.carried if self.recurrent else None)
        if self.recurrent and self.carried is not None:
            self.carried = {name: each.detach() for name, each in after.items()}
        dropped = self.output_dropout(raw)
        logits = self.decoder(dropped)
        return (logits, raw, dropped) if self.regularized and self.training else logits

    def continued(self, ids: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Returns the logits of what follows, (batch, vocab_sz), and the state to go on with; {} begins. For generation."""
        features, state = self.encoder(ids, state)
        return self.decoder(features[:, -1]), state


class TextClassifier(nn.Module):
    """Predicts something of a whole text, whose padding, behind it, counts nothing.

    Args:
        encoder: see `architectures`.
        n_out: outputs.
        pad_token: id of padding.
        bptt: a recurrent encoder reads a text in pieces of so many tokens, and gradients do not cross their borders.
        max_len: and only so many last tokens are pooled.
        lin_ftrs, ps, output_p: widths of the head's hidden layers, and dropout behind and before them.
        y_range: (low, high) that the outputs stay within.

    Input: (batch, time) ids; output: (batch, n_out). The same on any number of ranks, however much is padded.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_out: int,
        *,
        pad_token: int = 1,
        bptt: int = 72,
        max_len: int | None = 1440,
        lin_ftrs: Sequence[int] = (50,),
        ps: Sequence[float] = (0.1,),
        output_p: float = 0.4,
        y_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        require_sizes("lin_ftrs", lin_ftrs)
        if len(lin_ftrs) != len(ps):
            raise ConfigError(f"lin_ftrs={list(lin_ftrs)} and ps={list(ps)}: expected a dropout for each hidden layer")
        self.encoder = encoder
        self.pad_token, self.bptt, self.max_len = pad_token, bptt, max_len
        self.recurrent = isinstance(encoder, AWD_LSTM)
        features: Any = encoder.out_features
        sizes = [3 * features, *lin_ftrs, n_out]
        layers: list[nn.Module] = []
        for i, p in enumerate((output_p, *ps)):
            layers += [nn.BatchNorm1d(sizes[i]), SeededDropout(p), nn.Linear(sizes[i], sizes[i + 1])]
            layers += [nn.ReLU()] if i < len(ps) else []
        self.head = nn.Sequential(*layers, *([SigmoidRange(*y_range)] if y_range is not None else []))

    def forward(self, ids: torch.Tensor) -> Any:
        """Returns the predictions; of a recurrent encoder in training (predictions, features, features, which count)."""
        mask = ids != self.pad_token
        if not self.recurrent:
            return self.head(masked_concat_pool(self.encoder(ids, mask=mask)[0], mask))
        features = self._read(ids, mask)
        places = torch.arange(ids.shape[1], device=ids.device)
        pooled = mask
        if self.max_len is not None:
            pooled = mask & (places >= mask.sum(1, keepdim=True) - self.max_len)
        pred = self.head(masked_concat_pool(features, pooled))
        return (pred, features, features, pooled) if self.training else pred

    def _read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns the features of all tokens, read piece by piece."""
        # What no text pools needs no gradient; asking which texts are that long waits for the device, so only where some may be.
        unused = 0
        if self.max_len is not None and ids.shape[1] > self.max_len:
            unused = int(mask.sum(1).min()) - self.max_len
        state: State = {}
        pieces = []
        for begin in range(0, ids.shape[1], self.bptt):
            end = begin + self.bptt
            with torch.set_grad_enabled(torch.is_grad_enabled() and end > unused):
                piece, state = self.encoder(ids[:, begin:end], state)
            state = {name: each.detach() for name, each in state.items()}
            pieces.append(piece)
        return torch.cat(pieces, 1)


def masked_concat_pool(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns the last feature, the largest and the mean of the tokens that count, side by side.

    Args:
        features: (batch, time, size).
        mask: which tokens count, bool (batch, time); at least one in each text.

    >>> masked_concat_pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[3., 3., 2.]])
    """
    counts = mask.sum(1, keepdim=True)
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, 0).amax(1)
    of_last = features[torch.arange(len(features), device=features.device), last]
    largest = features.masked_fill(~mask[..., None], -torch.inf).amax(1)
    mean = (features * mask[..., None]).sum(1) / counts
    return torch.cat([of_last, largest, mean.to(features.dtype)], 1)


@register_builder("text_language_model")
def text_language_model(
    arch: str,
    vocab_sz: int,
    pad_token: int = 1,
    drop_mult: float = 1.0,
    regularized: bool = True,
    config: dict[str, Any] | None = None,
) -> LanguageModel:
    """Returns an untrained language model.

    Args:
        arch: a name in `architectures`.
        vocab_sz: tokens.
        pad_token: id of padding.
        drop_mult: all dropout is so many times the usual.
        regularized: see `LanguageModel`.
        config: what else the architecture takes, such as ``{"emb_sz": 200}``, and `output_p`, `tie_weights`.

    Raises:
        ConfigError: no such architecture, or it takes no such argument.
    """
    options, encoder = _configured(arch, "lm", drop_mult, config)
    of_model = {name: options.pop(name) for name in ("output_p", "tie_weights") if name in options}
    made = _encoder(arch, encoder, vocab_sz, pad_token, options)
    return LanguageModel(made, vocab_sz, regularized=regularized and isinstance(made, AWD_LSTM), **of_model)


@register_builder("text_classifier")
def text_classifier(
    arch: str,
    vocab_sz: int,
    n_out: int,
    pad_token: int = 1,
    drop_mult: float = 1.0,
    seq_len: int = 72,
    max_len: int | None = 1440,
    lin_ftrs: Sequence[int] = (50,),
    ps: Sequence[float] = (0.1,),
    config: dict[str, Any] | None = None,
    y_range: Sequence[float] | None = None,
) -> TextClassifier:
    """Returns an untrained classifier.

    Args:
        arch, vocab_sz, pad_token, drop_mult, config: see `text_language_model`.
        n_out: outputs.
        seq_len: see `TextClassifier`'s bptt.
        max_len, lin_ftrs, ps, y_range: see `TextClassifier`.

    Raises:
        ConfigError: as `text_language_model`.
    """
    options, encoder = _configured(arch, "classifier", drop_mult, config)
    options.pop("tie_weights", None)
    output_p = options.pop("output_p", 0.4 * drop_mult if arch == "awd_lstm" else 0.1 * drop_mult)
    made = _encoder(arch, encoder, vocab_sz, pad_token, options)
    return TextClassifier(
        made,
        n_out,
        pad_token=pad_token,
        bptt=seq_len,
        max_len=max_len,
        lin_ftrs=lin_ftrs,
        ps=[p * drop_mult for p in ps],
        output_p=output_p,
        y_range=y_range,
    )


def text_splitter(model: nn.Module) -> list[list[nn.Parameter]]:
    """Returns the parameters in groups: the embedding, each layer, and what follows; for gradual unfreezing.

    Of a language model the embedding and the decoder, which share weights, are the last group.
    """
    first, *layers = model.encoder.groups()  # type: ignore[union-attr,operator]  # see `architectures`
    if isinstance(model, LanguageModel):
        groups = [*layers, [*first, model.output_dropout, model.decoder]]
    else:
        groups = [first, *layers, [model.head]]
    return [list({id(p): p for module in group for p in module.parameters()}.values()) for group in groups]


def name_of(arch: Any) -> str:
    """Returns the name of an architecture that is given by it, or as its class.

    Raises:
        ConfigError: there is none.
    """
    found = arch if isinstance(arch, str) else next((n for n in architectures if architectures.find(n) is arch), None)
    if found is None or found not in architectures:
        raise ConfigError(
            f"arch={arch!r}{did_you_mean(str(arch), architectures)}: expected one of {', '.join(architectures)}, or one that "
            "was registered in dist_ai.text.architectures"
        )
    return found


def _configured(
    arch: str, task: str, drop_mult: float, config: dict[str, Any] | None
) -> tuple[dict[str, Any], Callable[..., nn.Module]]:
    """Returns the options of an architecture for a task, and the architecture."""
    options = dict(_DROPOUT[task]) if arch == "awd_lstm" else {"p": 0.1}
    options = {name: p * drop_mult for name, p in options.items()}
    return {**options, **(config or {})}, architectures.find(name_of(arch))


def _encoder(
    arch: str, make: Callable[..., nn.Module], vocab_sz: int, pad_token: int, options: dict[str, Any]
) -> nn.Module:
    known = inspect.signature(make).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in known.values()):
        own = [name for name in known if name not in ("vocab_sz", "pad_token")]
        for name in (name for name in options if name not in own):
            raise ConfigError(
                f"architecture {arch!r} has no {name!r}{did_you_mean(name, own)}; config may have {', '.join(own)}"
            )
    try:
        return make(vocab_sz, pad_token=pad_token, **options)
    except TypeError as error:
        raise ConfigError(f"architecture {arch!r} with config {options}: {error}") from error
