"""Learners of texts: language models, which write, and classifiers, which begin from their encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import torch
from torch import nn

from dist_ai.callbacks import Callback, CarryState, RNNRegularizer
from dist_ai.checkpoint import Checkpoint, write_checkpoint
from dist_ai.core.names import known_arguments
from dist_ai.data import DataLoaders
from dist_ai.distributed.sharded import is_sharded
from dist_ai.errors import ArtifactError, ConfigError, did_you_mean
from dist_ai.export import ModelSpec
from dist_ai.export.artifact import load_tensors
from dist_ai.layers.activation import bounds_of
from dist_ai.learner import Learner, LearnerOptions, first_weights, load_learner, register_learner, with_defaults
from dist_ai.learner.evaluation import device_of
from dist_ai.learner.run_places import program_directory
from dist_ai.learner.saving import place_of
from dist_ai.text.data import TextDataLoaders
from dist_ai.text.generate import Continues, beam_search, generate
from dist_ai.text.models import name_of, text_classifier, text_language_model, text_splitter
from dist_ai.text.transforms import Tokenize

__all__ = [
    "LMLearner",
    "TextLearner",
    "language_model_learner",
    "load_text_learner",
    "text_classifier_learner",
    "tokenize_of",
]


_MOMS = (0.8, 0.7, 0.8)  # fastai's of a one-cycle fit of texts


@register_learner("text_classifier")
class TextLearner(Learner):
    """A Learner whose model has an encoder, which can be saved and loaded by itself."""

    @property
    def tokenize(self) -> Tokenize:
        """How text becomes tokens."""
        return tokenize_of(self.dls)

    def save_encoder(self, name: str | Path) -> Path:
        """Writes the encoder's weights and the vocabulary to a directory; returns it. Collective.

        Args:
            name: a path, or a bare name for one in ``models`` in the run directory of the program, which its Learners share:
                the next one's ``load_encoder(name)`` finds it.
        """
        directory = self._handed_on(name)
        self.strategy.sync_buffers(self.model)
        state = {"vocab": self.tokenize.vocab, "backwards": self.tokenize.backwards}
        write_checkpoint(directory, {"encoder": self._encoder.state_dict()}, state, self.collectives)
        return directory

    def load_encoder(self, name: str | Path) -> TextLearner:
        """Reads an encoder that `save_encoder` wrote; returns the Learner.

        Where the vocabulary differs, words that both have keep their embedding and the others get the mean of all.

        Raises:
            ArtifactError: it is not there, damaged, of another architecture or size, or of texts read the other way round.
        """
        directory = self._handed_on(name)
        saved = Checkpoint.open(directory)
        if saved.state["backwards"] != self.tokenize.backwards:
            raise ArtifactError(
                f"{directory} read texts {'backwards' if saved.state['backwards'] else 'forwards'}, and these loaders do not; "
                "make them with backwards=" + str(saved.state["backwards"])
            )
        live = self._encoder.state_dict()
        same = saved.state["vocab"] == self.tokenize.vocab
        if not same and any(map(is_sharded, live.values())):
            raise ArtifactError(
                f"{directory} has another vocabulary, and this model is sharded over ranks; make the loaders with its "
                "vocabulary: text_vocab=dls_lm.tokenize"
            )
        tensors = saved.read("encoder", {name: tensor for name, tensor in live.items() if is_sharded(tensor)})
        if not same:
            tensors = _of_vocabulary(tensors, saved.state["vocab"], self.tokenize.vocab)
        load_tensors(self._encoder, tensors, str(directory), "Load it into the architecture that it was saved of")
        self.own_optimizer.drop()
        return self

    def _handed_on(self, name: str | Path) -> Path:
        return place_of(name, program_directory(self.run_dir))

    @property
    def _encoder(self) -> nn.Module:
        encoder = getattr(self.model, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise ConfigError(f"{type(self.model).__name__} has no encoder; make it with language_model_learner")
        return encoder


@register_learner("text_language_model")
class LMLearner(TextLearner):
    """A Learner of a language model."""

    def predict(  # type: ignore[override]  # an item of a language model is a text that goes on
        self,
        text: str,
        n_words: int = 1,
        *,
        no_unk: bool = True,
        temperature: float = 1.0,
        min_p: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        beam: int | None = None,
        stop: str | None = None,
        only_last_word: bool = False,
        seed: int = 0,
    ) -> str:
        """Returns the text with what the model writes behind it; in front of it, if it reads backwards.

        Args:
            text: the begin; all of it, whatever `max_length` the loaders cut texts by.
            n_words: tokens to write at most.
            no_unk: never write ``xxunk``.
            temperature, min_p, top_k, top_p, seed: see `dist_ai.text.generate.generate`.
            beam: search the likeliest text with so many begins instead of drawing one; see `beam_search`. It draws nothing, so
                temperature, min_p, top_k and top_p have no place beside it.
            stop: the token that ends the text; by default the mark that the rules put at the end of one: ``xxeos``, with the rule
                `add_eos`; or, backwards, ``xxbos``. Without such rules none.
            only_last_word: show the model no more than the last token of `text`.

        Raises:
            ConfigError: an argument that cannot work.
        """
        if not isinstance(text, str):
            raise ConfigError(f"{text!r:.60} is no begin of a text; expected a string")
        if not isinstance(stop, str | None):
            raise ConfigError(
                f"stop={stop!r:.60}: expected a token as the vocabulary has it, such as 'xxeos', not its id"
            )
        drawn = {
            "min_p": min_p,
            "top_k": top_k,
            "top_p": top_p,
            "temperature": None if temperature == 1 else temperature,
        }
        if beam is not None and (beside := [name for name, value in drawn.items() if value is not None]):
            raise ConfigError(f"{beside[0]} beside beam={beam}: a beam search draws nothing; give one of them")
        tokenize = replace(self.tokenize, max_length=None)
        end = tokenize.end_id
        until = end if stop is None else tokenize.id_of(stop)
        if stop is not None and until is None:
            raise ConfigError(f"stop={stop!r} is no token of the vocabulary{did_you_mean(stop, tokenize.vocab)}")
        ids = torch.tensor(
            next(iter(tokenize.encode_all([text]))).copy(), dtype=torch.int64, device=device_of(self.model)
        )
        ids = ids[:-1] if len(ids) > 1 and ids[-1] == end else ids  # it goes on: its end is not reached
        begin = ids[-1:] if only_last_word else ids
        never = {i for i in (tokenize.unknown_id if no_unk else None, tokenize.pad_id) if i is not None}
        forbidden, model = (
            tuple(never),
            cast(Continues, self.model),
        )  # what a module has beside torch's is not in its type
        with self.evaluating(), self.precision.active():
            if beam is None:
                new = generate(
                    model,
                    begin,
                    n_words,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    min_p=min_p,
                    forbidden=forbidden,
                    stop=until,
                    seed=seed,
                )
            else:
                new = beam_search(model, begin, n_words, beam=beam, forbidden=forbidden, stop=until)
        return tokenize.text([*ids.tolist(), *new])


@known_arguments(LearnerOptions)
def language_model_learner(
    dls: TextDataLoaders,
    arch: Any = "awd_lstm",
    *,
    config: dict[str, Any] | None = None,
    drop_mult: float = 1.0,
    alpha: float = 2.0,
    beta: float = 1.0,
    pretrained: str | Path | Literal[False] | None = None,
    **options: Unpack[LearnerOptions],
) -> LMLearner:
    """Returns a Learner of a language model.

    Args:
        dls: made with ``is_lm=True``.
        arch: ``"awd_lstm"`` (or `AWD_LSTM`), ``"gpt"``, or another in `dist_ai.text.architectures`.
        config: sizes and dropout of the architecture: ``{"n_hid": 512}``.
        drop_mult: all dropout is so many times the usual.
        alpha, beta: see `RNNRegularizer`; for recurrent models.
        pretrained: what `save_encoder` wrote of another one, to begin from.
        options: see `Learner`, such as ``metrics=Perplexity()``.

    The weights depend on ``dls.seed`` only.

    Raises:
        ConfigError: an argument that cannot work; loaders that are not of a language model.
    """
    name, tokenize = name_of(arch), tokenize_of(dls)
    if not tokenize.is_lm:
        raise ConfigError("these loaders are not of a language model; make them with is_lm=True")
    if name == "transformer":
        raise ConfigError('arch="transformer" sees what follows; a language model must not: use arch="gpt"')
    arguments = {
        "arch": name,
        "vocab_sz": tokenize.num_outputs,
        "pad_token": tokenize.pad_id,
        "drop_mult": drop_mult,
        "config": config,
    }
    with first_weights(dls):
        model = text_language_model(**arguments)
    own = [CarryState(), RNNRegularizer(alpha, beta)] if model.recurrent else []
    learn = LMLearner(
        dls,
        model,
        **with_defaults(options, *own, moms=_MOMS),
        spec=ModelSpec("text_language_model", arguments),
        splitter=text_splitter,
    )
    if encoder := _encoder_at(pretrained):
        learn.load_encoder(encoder)
    return learn


@known_arguments(LearnerOptions)
def text_classifier_learner(
    dls: DataLoaders,
    arch: Any = "awd_lstm",
    *,
    config: dict[str, Any] | None = None,
    drop_mult: float = 0.5,
    seq_len: int = 72,
    max_len: int | None = 72 * 20,
    lin_ftrs: Sequence[int] = (50,),
    ps: Sequence[float] = (0.1,),
    alpha: float = 2.0,
    beta: float = 1.0,
    n_out: int | None = None,
    y_range: tuple[float, float] | None = None,
    pretrained: str | Path | Literal[False] | None = None,
    **options: Unpack[LearnerOptions],
) -> TextLearner:
    """Returns a Learner of a classifier of texts, or of a regression.

    Args:
        dls: texts and labels.
        arch, config, drop_mult, alpha, beta: see `language_model_learner`; ``"transformer"`` reads both ways.
        seq_len: a recurrent model reads a text in pieces of so many tokens.
        max_len: and pools so many last tokens; None for all.
        lin_ftrs, ps: widths and dropout of the head's hidden layers.
        n_out: outputs; by default the number of classes, or of numbers to predict.
        y_range: (low, high) that predicted numbers stay within; a little wider than the targets' is best.
        pretrained: what `save_encoder` wrote of a language model; then all but the head is frozen.
        options: see `Learner`.

    The weights depend on ``dls.seed`` only. With `pretrained`, or after `load_encoder` and `freeze`, unfreeze bit by bit:
    ``learn.freeze_to(-2)``, and give the first groups smaller rates: ``slice(lr / 2.6**4, lr)``.

    Raises:
        ConfigError: an argument that cannot work.
    """
    name, tokenize = name_of(arch), tokenize_of(dls)
    for option, tokens in (("seq_len", seq_len), ("max_len", max_len)):
        if tokens is not None and tokens < 1:
            raise ConfigError(f"{option}={tokens}: expected at least 1 token")
    if tokenize.is_lm:
        raise ConfigError("these loaders are of a language model; make them without is_lm")
    if dls.train.bs == 1:
        raise ConfigError("bs=1: the head's BatchNorm needs at least 2 texts in a training batch; use bs=2 or more")
    arguments = {
        "arch": name,
        "vocab_sz": tokenize.num_outputs,
        "n_out": dls.recipe.num_outputs if n_out is None else n_out,
        "pad_token": tokenize.pad_id,
        "drop_mult": drop_mult,
        "seq_len": seq_len,
        "max_len": max_len,
        "lin_ftrs": list(lin_ftrs),
        "ps": list(ps),
        "y_range": bounds_of(y_range),
        "config": config,
    }
    with first_weights(dls):
        model = text_classifier(**arguments)
    own: list[Callback] = [RNNRegularizer(alpha, beta)] if model.recurrent else []
    learn = TextLearner(
        dls,
        model,
        **with_defaults(options, *own, moms=_MOMS),
        spec=ModelSpec("text_classifier", arguments),
        splitter=text_splitter,
    )
    if encoder := _encoder_at(pretrained):
        learn.load_encoder(encoder)
        learn.freeze()
    return learn


def load_text_learner(directory: str | Path) -> TextLearner:
    """Returns a Learner with an exported model of texts: `load_learner`, of texts alone.

    Raises:
        ArtifactError: the export is missing, damaged, or names what this program does not have.
        ConfigError: it is no model of texts.
    """
    learn = load_learner(directory)
    if not isinstance(learn, TextLearner):
        raise ConfigError(f"{directory} holds no model of texts, but a {type(learn.model).__name__}; use load_learner")
    return learn


def _encoder_at(pretrained: Any) -> Path | None:
    """Returns the folder of an encoder, or the name that `save_encoder` knows it by."""
    if pretrained is True:
        raise ConfigError(
            "pretrained=True: no weights come with dist_ai; give what save_encoder wrote of a language model, leave it out for "
            "random weights, or take a model of transformers: hf_learner"
        )
    if pretrained is None or pretrained is False:
        return None
    return Path(pretrained).absolute() if Path(pretrained).exists() else Path(pretrained)


def tokenize_of(dls: DataLoaders) -> Tokenize:
    """Returns how the texts of loaders become tokens.

    Raises:
        ConfigError: they have no texts.
    """
    for pipeline in dls.recipe.inputs:
        for tfm in pipeline.tfms:
            if isinstance(tfm, Tokenize):
                return tfm
    raise ConfigError(
        "these loaders have no texts: no input is tokenized; make them with TextDataLoaders or a TextBlock"
    )


def _of_vocabulary(tensors: dict[str, torch.Tensor], old: Sequence[str], new: Sequence[str]) -> dict[str, torch.Tensor]:
    """Returns an encoder's weights with the rows of the embedding in the order of another vocabulary."""
    weights = tensors["embedding.weight"]
    place = {word: i for i, word in enumerate(old)}
    rows = weights.mean(0, keepdim=True).repeat(len(new), 1)
    known = [(i, place[word]) for i, word in enumerate(new) if word in place]
    if known:
        here, there = map(list, zip(*known, strict=True))
        rows[here] = weights[there]
    return {**tensors, "embedding.weight": rows}
