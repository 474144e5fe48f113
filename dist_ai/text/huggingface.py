"""Models of Hugging Face's `transformers`, and PEFT's adapters, in a Learner; all that is known of both is in this file.

```python
dls = TextDataLoaders.from_df(df, tok_tfm=Tokenize.from_pretrained("minilm"), max_length=128)
learn = hf_learner(dls, "minilm", metrics=accuracy)  # a folder with config.json, model.safetensors and tokenizer.json
learn.fit_one_cycle(1, 1e-4)
```

Weights are read from safetensors alone and no code comes with them. What a model drops is drawn by sample, as everywhere in
dist_ai, so its numbers do not depend on the number of ranks; only the dropout of attention's probabilities, which happens
inside a fused kernel, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack, get_args

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.names import known_arguments
from dist_ai.core.types import TensorCategory
from dist_ai.data import DataLoaders
from dist_ai.errors import ArtifactError, ConfigError, DataError, MissingDependencyError, did_you_mean
from dist_ai.export import ModelSpec, register_builder
from dist_ai.layers import SeededDropout, SigmoidRange
from dist_ai.layers.activation import bounds_of
from dist_ai.learner import LearnerOptions, first_weights, register_learner, with_defaults
from dist_ai.text.corpus import LMStreams, TokenizedPart
from dist_ai.text.learner import LMLearner, TextLearner, tokenize_of
from dist_ai.text.transforms import Tokenize

__all__ = ["HFModel", "Pooling", "Task", "embed", "hf_learner", "hf_model", "hf_splitter"]

Task: TypeAlias = Literal["classification", "tokens", "lm", "embeddings"]
Pooling: TypeAlias = Literal["own", "mean"]

_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "lm": "AutoModelForCausalLM",
    "embeddings": "AutoModel",
}
# What models call the dropout of attention's probabilities.
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "attention_dropout_rate")
# What models call their table of places.
_TABLES_OF_PLACES = ("position_embeddings", "embed_positions", "wpe")


class HFModel(nn.Module):
    """A model of `transformers` that takes token ids and returns one tensor; padding is masked.

    Args:
        model: such as `AutoModelForSequenceClassification` makes.
        pad_token: id of padding.
        task: what is returned: logits of ``"classification"`` (batch, outputs), of ``"tokens"`` and ``"lm"`` (batch, time,
            outputs); or ``"embeddings"``, the mean of a text's features with length 1, (batch, features).
        head: makes the logits of classification from that mean, where the model does not by itself.
        y_range: (low, high) that the outputs of classification stay within, where they are numbers to predict.

    Attributes:
        learning: with LoRA the names of the parameters that learn; None where all may.
    """

    def __init__(
        self,
        model: nn.Module,
        pad_token: int,
        task: Task,
        head: nn.Module | None = None,
        y_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.range = nn.Identity() if y_range is None else SigmoidRange(*y_range)
        self.pad_token, self.task = pad_token, task
        self.num_places = _num_places(model)
        self.learning: frozenset[str] | None = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the prediction."""
        self.require_places(ids.shape[1])
        mask = ids != self.pad_token
        output = self.model(input_ids=ids, attention_mask=mask.long())
        if self.task != "embeddings" and self.head is None:
            return self.range(output.logits)
        mean = (output.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(mean, dim=-1) if self.head is None else self.range(self.head(mean))

    def require_places(self, num_tokens: int) -> None:
        """Raises `DataError` for a text of more tokens than the model has places: a GPU would fail without saying why."""
        if self.num_places is not None and num_tokens > self.num_places:
            raise DataError(
                f"a text of {num_tokens} tokens, and the model has {self.num_places} places; cut longer texts: "
                f"Tokenize.from_pretrained(folder, max_length={self.num_places})"
            )

    def continued(
        self, ids: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the logits of what follows and all tokens so far, which are read again each time. For generation."""
        ids = torch.cat([state["ids"], ids], 1) if state else ids
        self.require_places(ids.shape[1])
        return self.model(input_ids=ids).logits[:, -1], {"ids": ids}


@known_arguments(LearnerOptions)
def hf_learner(
    dls: DataLoaders,
    source: str | Path | dict[str, Any] | Any,
    *,
    task: Task | None = None,
    n_out: int | None = None,
    y_range: tuple[float, float] | None = None,
    pooling: Pooling = "own",
    lora: dict[str, Any] | None = None,
    **options: Unpack[LearnerOptions],
) -> TextLearner:
    """Returns a Learner of a model of `transformers`.

    Args:
        dls: made with the model's tokenizer: ``tok_tfm=Tokenize.from_pretrained(folder)``.
        source: a folder with its weights (or a name on the hub); or its configuration, as an object, as a dict or as
            ``{"model_type": "bert", "hidden_size": 64}``, for random weights.
        task: see `HFModel`; by default ``"lm"`` for loaders of a language model, and else ``"classification"``.
        n_out: outputs; by default what the targets say.
        y_range: (low, high) that predicted numbers stay within; a little wider than the targets' is best.
        pooling: what a text is classified by: ``"own"``, which each kind of model does in its way, many by the first token;
            or ``"mean"``, the mean of its tokens' features, which is what models of sentences were trained for
            (Sentence-BERT, arXiv:1908.10084).
        lora: trains small matrices beside the weights, and the head: options of PEFT's `LoraConfig`, such as ``{"r": 8}``;
            ``{"bias": "all"}`` trains the biases, too.
        options: see `Learner`.

    Parameter groups: the embeddings, each layer, the rest. With `lora` what it trains, and the head; the weights are in no
    group, and stay frozen whatever is unfrozen.

    Raises:
        ConfigError: the tokenizer has more tokens than the model, there is no such model or option of its configuration, a model
            sees what follows and is to be one of a language, the targets are not those of the task, or an argument cannot work.
        DataError: a text is longer than the model has places for.
        ArtifactError: there are no such weights.
        MissingDependencyError: `transformers`, or for `lora` PEFT, is not installed.
    """
    tokenize = tokenize_of(dls)
    task = task or ("lm" if tokenize.is_lm else "classification")
    if task not in _CLASSES:
        raise ConfigError(f"task={task!r}: expected one of {', '.join(map(repr, _CLASSES))}")
    if pooling not in get_args(Pooling) or (pooling == "mean" and task != "classification"):
        raise ConfigError(
            f"pooling={pooling!r} for task={task!r}: expected 'own', or for the task 'classification' 'mean'"
        )
    if y_range is not None and task != "classification":
        raise ConfigError(f"y_range={y_range!r} beside task={task!r}: only numbers that a text predicts have a range")
    if task in ("classification", "tokens") and n_out is None:
        n_out = dls.recipe.num_outputs
    if task == "tokens":
        _require_targets_of_tokens(dls)
    config = _config(source, tokenize, n_out)
    if task == "lm" and hasattr(config, "is_decoder"):
        config.is_decoder = True  # BERT and its kin see what follows otherwise
    arguments = {
        "config": _plain(config),
        "task": task,
        "pad_token": tokenize.pad_id,
        "pooling": pooling,
        "lora": lora,
        "y_range": bounds_of(y_range),
    }
    with first_weights(dls):
        model = hf_model(**arguments, weights=source if isinstance(source, str | Path) else None)
    assert isinstance(model, HFModel)
    model.require_places(_longest(dls))
    if task == "lm":
        _require_causal(model, tokenize.pad_id)
    kind = LMLearner if task == "lm" else TextLearner
    return kind(
        dls, model, **with_defaults(options, wd=0.01), spec=ModelSpec("hf_model", arguments), splitter=hf_splitter
    )


def _require_targets_of_tokens(dls: DataLoaders) -> None:
    """Refuses targets that are one for each text."""
    if hasattr(dls.train_ds, "__getitem__"):
        target = dls.train_ds[0][-1]
        if isinstance(target, TensorCategory) and target.ndim == 0:
            raise ConfigError(
                'task="tokens" predicts a class for each token, and these loaders have one for each text: use '
                'task="classification", or give each text as many classes as it has tokens'
            )


@torch.no_grad()
def _require_causal(model: HFModel, pad_token: int) -> None:
    """Refuses a model whose predictions for the first tokens change with the last one: it would be told what it predicts."""
    if any(p.is_meta for p in model.parameters()):
        return
    config: Any = model.model.config
    ids = torch.tensor([i for i in range(12) if i != pad_token][:5])
    ids = torch.stack([ids[:4], ids[[0, 1, 2, 4]]]) % int(config.vocab_size)
    training = model.training
    one, other = model.eval()(ids).float()[:, :3]
    model.train(training)
    # Of equal sums a few last bits may differ, where experts get other numbers of tokens.
    if not (one - other).abs().max() <= 1e-4 * one.std():
        raise ConfigError(
            f"a {config.model_type!r} sees the tokens that follow, which a language model is to predict; take one that "
            "reads forwards, such as 'gpt2' or 'llama'"
        )


def _longest(dls: DataLoaders) -> int:
    """Returns the tokens of the longest text of loaders, 0 where they are not known before they are read."""
    longest = 0
    for part in (dls.train_ds, dls.valid_ds):
        if isinstance(part, TokenizedPart):
            longest = max(longest, int(part.lengths.max()))
        elif isinstance(part, LMStreams):
            longest = max(longest, part.streams.seq_len)
    return longest


@register_builder("hf_model")
def hf_model(
    config: dict[str, Any],
    task: Task,
    pad_token: int,
    pooling: Pooling = "own",
    lora: dict[str, Any] | None = None,
    y_range: Sequence[float] | None = None,
    weights: str | Path | None = None,
) -> HFModel:
    """Returns a model of a configuration.

    Args:
        config: as `PretrainedConfig.to_dict` gives it.
        task, pad_token: see `HFModel`.
        pooling, lora, y_range: see `hf_learner`.
        weights: a folder of weights, or a name on the hub; by default they are random.

    Raises:
        ArtifactError, MissingDependencyError: see `hf_learner`.
    """
    transformers = _library("transformers")
    options = dict(config)
    made = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
    auto = getattr(transformers, _CLASSES["embeddings" if pooling == "mean" else task])
    if weights is None:
        try:
            model = auto.from_config(made)
        except ValueError as error:
            raise ConfigError(f"a {made.model_type} cannot be made of this configuration: {error}") from error
    else:
        try:
            model = auto.from_pretrained(str(weights), config=made, use_safetensors=True, dtype=torch.float32)
        except OSError as error:
            raise ArtifactError(
                f"no weights of a {made.model_type} at {weights}: {str(error).splitlines()[0]}"
            ) from error
    if task == "embeddings" or pooling == "mean":
        model.pooler = None  # of the first token: nobody asks for it, so it would get no gradients
    if lora is not None:
        model = _with_lora(model, lora)
        for name, p in model.named_parameters():
            if _is_head(name) and "original_module" not in name:  # of which modules_to_save has a copy that learns
                p.requires_grad_(True)
    _seed_dropout(model)
    head = None
    if pooling == "mean":
        head = nn.Sequential(SeededDropout(0.1), nn.Linear(made.hidden_size, made.num_labels))
    whole = HFModel(model, pad_token, task, head, y_range)
    if lora is not None:
        whole.learning = frozenset(name for name, p in whole.named_parameters() if p.requires_grad)
    return whole


def _num_places(model: nn.Module) -> int | None:
    """Returns how many tokens a text may have: the rows of the table where a model learns a vector for each place.

    None if it has no such table: places that are turned, or counted from each other, have no end.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES_OF_PLACES:
            # Places are counted from behind that of padding (RoBERTa), or from an offset (BART, OPT).
            first = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings - first)
    return None


@register_learner("hf_model")
def _loaded(dls: DataLoaders, model: HFModel, *given: Any, **options: Any) -> TextLearner:
    """Returns the Learner of an exported model: one that writes of a language model."""
    options = {"splitter": hf_splitter, **options}
    return (LMLearner if model.task == "lm" else TextLearner)(dls, model, *given, **options)


def hf_splitter(model: HFModel) -> list[list[nn.Parameter]]:
    """Returns the parameters in groups: the embeddings, each layer, the rest; with LoRA what it trains, and the head."""
    named = list(model.named_parameters())
    if model.learning is not None:
        trained = [(name, p) for name, p in named if name in model.learning]
        groups = [[p for name, p in trained if _is_adapter(name) is adapter] for adapter in (True, False)]
        return [group for group in groups if group]
    layers = max(
        (module for module in model.modules() if isinstance(module, nn.ModuleList)),
        key=lambda module: sum(p.numel() for p in module.parameters()),
        default=nn.ModuleList(),
    )
    inside = [list(layer.parameters()) for layer in layers]
    embedded = [p for name, p in named if "embed" in name or ".wte." in name or ".wpe." in name]
    known = {id(p) for group in (embedded, *inside) for p in group}
    rest = [p for _, p in named if id(p) not in known]
    taken = {id(p) for group in inside for p in group}
    return [group for group in ([p for p in embedded if id(p) not in taken], *inside, rest) if group]


@torch.inference_mode()
def embed(learn: TextLearner, texts: Sequence[str], *, bs: int = 64) -> torch.Tensor:
    """Returns an embedding for each text, (texts, features) on the CPU, by a model of the task ``"embeddings"``.

    Args:
        learn: of `hf_learner(dls, folder, task="embeddings")`.
        texts: the texts.
        bs: how many go through the model at once.

    Raises:
        ConfigError: a model of another task, or one string for the texts.
        DataError: there is no text.
    """
    if isinstance(texts, str):
        raise ConfigError(f"texts={texts!r:.60}: expected several texts; give [{texts!r:.60}]")
    if not len(texts):
        raise DataError("no texts: there is nothing to embed")
    if getattr(learn.model, "task", None) != "embeddings":
        raise ConfigError('embed needs a model that was made with task="embeddings"')
    learn.model.eval()
    tokenize, rows = learn.tokenize, []
    ids = [torch.from_numpy(each).long() for each in tokenize.encode_all(texts)]
    device = next(learn.model.parameters()).device
    for begin in range(0, len(ids), bs):
        padded = nn.utils.rnn.pad_sequence(ids[begin : begin + bs], batch_first=True, padding_value=tokenize.pad_id)
        rows.append(learn.model(padded.to(device)).cpu())
    return torch.cat(rows)


def _config(source: Any, tokenize: Tokenize, n_out: int | None) -> Any:
    transformers = _library("transformers")
    if isinstance(source, str | Path):
        try:
            config = transformers.AutoConfig.from_pretrained(str(source))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"no model of transformers at {source}: {str(error).splitlines()[0]}; expected a folder with a config.json"
            ) from error
    elif isinstance(source, dict):
        options = {"vocab_size": tokenize.num_outputs, **source}
        if "model_type" not in options:
            raise ConfigError('the configuration has no "model_type", such as "bert"')
        config = _of_type(transformers, options)
    elif isinstance(source, nn.Module):
        raise ConfigError(
            f"source is a {type(source).__name__}, a model; save it with model.save_pretrained(folder) and give the folder, or "
            "model.config for random weights"
        )
    else:
        config = source
    if tokenize.num_outputs > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenize.num_outputs} tokens and the model {config.vocab_size}; make the loaders with the "
            "model's own: tok_tfm=Tokenize.from_pretrained(folder)"
        )
    config.pad_token_id = tokenize.pad_id
    if n_out is not None:
        config.num_labels = n_out
    for name in _ATTENTION_DROPOUT:
        if getattr(config, name, None):
            setattr(config, name, 0.0)
    return config


def _of_type(transformers: Any, options: dict[str, Any]) -> Any:
    """Returns the configuration of a model of transformers that a dict describes."""
    kind = options.pop("model_type")
    known = list(transformers.CONFIG_MAPPING.keys())
    if kind not in known:
        raise ConfigError(f"model_type={kind!r}: transformers has no such model{did_you_mean(str(kind), known)}")
    usual, made = transformers.AutoConfig.for_model(kind), transformers.AutoConfig.for_model(kind, **options)
    for option in options:
        # What transformers keeps as it is and never looks at. Others it makes something else of: rope_theta, attn_implementation.
        if hasattr(made, option) and not hasattr(usual, option):
            raise ConfigError(
                f"a configuration of {kind!r} has no {option!r}{did_you_mean(option, usual.to_dict())}; see "
                f"transformers.{type(usual).__name__}, and give of a config.json what transformers.AutoConfig reads"
            )
    return made


def _plain(config: Any) -> dict[str, Any]:
    """Returns a configuration as what a file can hold: without what transformers writes of itself and of weights."""
    options = json.loads(config.to_json_string(use_diff=False))
    kept = {name: value for name, value in options.items() if name not in ("transformers_version", "_name_or_path")}
    return {name: value for name, value in kept.items() if value is not None}


def _with_lora(model: Any, lora: dict[str, Any]) -> Any:
    peft = _library("peft")
    try:
        config = peft.LoraConfig(**lora)
        return peft.inject_adapter_in_model(config, model)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora={lora}: {error}") from error


def _is_adapter(name: str) -> bool:
    """Returns whether a parameter that learns with LoRA is of the model inside: a matrix or a bias, and not of the head."""
    return "lora_" in name or not ("modules_to_save" in name or _is_head(name))


def _is_head(name: str) -> bool:
    return any(part in name.split(".") for part in ("classifier", "head", "score", "pre_classifier"))


def _seed_dropout(model: nn.Module) -> None:
    """Makes the model drop the same on any number of ranks: the batch comes first wherever transformers drops."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout and child.p < 1:
                setattr(parent, name, SeededDropout(child.p))


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is not installed, and models of Hugging Face need it: pip install 'dist_ai[transformers]'"
        ) from error
