"""Learners of texts: they learn, write, show, predict, export, hand on encoders, and go on where they were stopped."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import SMALL, classifier, language_model, loaders, reviews
from toy import make_learner

from dist_ai.callbacks import Callback, CarryState
from dist_ai.errors import ArtifactError, ConfigError, DataError
from dist_ai.export import Predictor
from dist_ai.learner import load_learner
from dist_ai.metrics import Perplexity
from dist_ai.text import AWD_LSTM, DEFAULT_RULES, LMLearner, TextDataLoaders, Tokenize, load_text_learner
from dist_ai.text.awd_lstm import LSTMLayer
from dist_ai.text.models import text_classifier, text_language_model, text_splitter

ARCHITECTURES = ["awd_lstm", "gpt"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: Any) -> Any:
    """Returns a trained language model's learner."""
    learn = language_model(arch=request.param, drop_mult=0.3, metrics=Perplexity())
    learn.fit_one_cycle(6, 2e-2)
    return learn


@pytest.fixture(scope="module", params=["awd_lstm", "transformer"])
def clas(request: Any) -> Any:
    """Returns a trained classifier's learner."""
    learn = classifier(loaders(160), arch=request.param, drop_mult=0.1)
    learn.fit_one_cycle(8, 2e-2 if request.param == "awd_lstm" else 5e-3)
    return learn


def test_a_language_model_learns_and_its_perplexity_is_that_of_its_loss(lm: Any) -> None:
    loss, perplexity = lm.validate()
    assert loss < 2.95 < lm.recorder.losses[0]
    assert abs(perplexity - torch.tensor(loss).exp()) < 0.1 * perplexity  # the last windows are shorter


def test_it_writes_the_same_for_a_seed_and_never_what_is_unknown(lm: Any) -> None:
    text = lm.predict("The film is", 12, temperature=0.8, top_k=20, top_p=0.95)
    assert text.startswith("The film is ")
    assert "xxunk" not in text
    assert text == lm.predict("The film is", 12, temperature=0.8, top_k=20, top_p=0.95)
    assert text != lm.predict("The film is", 12, temperature=0.8, top_k=20, top_p=0.95, seed=1)
    assert lm.predict("The film is", 5, temperature=0) == lm.predict("The film is", 5, beam=1)


def test_text_written_step_by_step_is_that_of_the_whole_text(lm: Any) -> None:
    model = lm.model.eval()
    ids = torch.randint(9, 20, (2, 9))
    with torch.no_grad():
        whole = model(ids)
        first, state = model.continued(ids[:, :5], {})
        torch.testing.assert_close(first, whole[:, 4], rtol=1e-4, atol=1e-5)
        for place in range(5, 9):
            step, state = model.continued(ids[:, place : place + 1], state)
            torch.testing.assert_close(step, whole[:, place], rtol=1e-4, atol=1e-5)


def test_an_exported_language_model_writes_what_it_wrote(lm: Any, tmp_path: Path) -> None:
    again = load_learner(lm.export(tmp_path / "export"))
    assert type(again) is type(load_text_learner(tmp_path / "export")) is LMLearner
    assert again.predict("A film", 8) == lm.predict("A film", 8)
    assert again.tokenize == lm.tokenize


def test_results_are_shown_where_the_last_windows_are_shorter() -> None:
    learn = language_model(loaders(is_lm=True, bs=6, seq_len=23))
    streams = learn.dls.valid_ds
    assert len(streams[0][0]) == 23 > len(streams[len(streams) - 1][0])
    assert len(learn.show_results(max_n=12).axes) >= 1


def test_batches_and_results_are_shown_as_text(lm: Any, clas: Any, tmp_path: Path) -> None:
    for learn in (lm, clas):
        for figure in (learn.dls.show_batch(max_n=2), learn.show_results(max_n=2)):
            figure.savefig(tmp_path / "figure.png")
            cells = [text.get_text() for axes in figure.axes for text in axes.texts]
            assert any(" film " in f" {cell} " for cell in cells)
            assert not any("xxpad" in cell for cell in cells)


def test_a_classifier_learns_and_predicts_from_text_after_its_export(clas: Any, tmp_path: Path) -> None:
    assert clas.recorder.final[1] >= 0.8
    texts = ["The film is a superb story", "The awful music in it", "A lovely film with actors and a story in it"]
    wanted = ["pos", "neg", "pos"]
    assert [clas.predict(text)[0] for text in texts] == wanted
    clas.export(tmp_path / "export")
    together = Predictor(tmp_path / "export").predict_many(texts)
    assert [each.label for each in together] == wanted
    for text, each in zip(texts, together, strict=True):
        torch.testing.assert_close(each.output, clas.predict(text)[2], rtol=1e-4, atol=1e-5)
        assert load_learner(tmp_path / "export").predict(text)[0] == each.label


def test_predictions_come_in_the_order_of_the_data(clas: Any) -> None:
    predictions, targets = clas.get_preds()
    part = clas.dls.valid_ds
    assert targets.tolist() == [int(part[i][1]) for i in range(len(part))]
    torch.testing.assert_close(predictions[5], clas.predict(part.item(5))[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["awd_lstm", "gpt", "transformer"])
def test_padding_counts_nothing(arch: str) -> None:
    learn = classifier(arch=arch, seq_len=5)
    model = learn.model.double().eval()
    ids = torch.randint(9, 20, (3, 12))
    padded = torch.nn.functional.pad(ids, (0, 11), value=1)
    torch.testing.assert_close(model(padded), model(ids), rtol=1e-9, atol=1e-9)


def test_only_the_last_tokens_of_long_texts_are_pooled_and_have_a_gradient() -> None:
    model = text_classifier("awd_lstm", 30, 2, seq_len=4, max_len=8, drop_mult=0.0, config=SMALL)
    ids = torch.randint(9, 30, (2, 20))
    pred, features, _, counts = model(ids)
    assert counts.sum(1).tolist() == [8, 8]
    gradient = torch.autograd.grad(pred[0, 0] + features[:, :12].sum() * 0, features)[0]
    assert not gradient[:, :12].any()
    assert gradient[:, 12:].any()


# ------------------------------------------------------------------------------------ encoders


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_encoder_goes_from_a_language_model_to_a_classifier(arch: str, tmp_path: Path) -> None:
    of_lm = language_model(arch=arch)
    of_lm.save_encoder(tmp_path / "encoder")
    learn = classifier(loaders(text_vocab=of_lm.tokenize), arch=arch, pretrained=tmp_path / "encoder")
    for name, weight in of_lm.model.encoder.state_dict().items():
        assert torch.equal(learn.model.encoder.state_dict()[name], weight)
    trained = [name for name, p in learn.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith("head.") for name in trained)
    learn.freeze_to(-2)
    assert sum(p.requires_grad for p in learn.model.encoder.parameters()) > 0
    assert len(learn.splitter(learn.model)) == 4  # embedding, two layers, head


def test_words_that_both_vocabularies_have_keep_their_embedding(tmp_path: Path) -> None:
    of_lm = language_model()
    of_lm.save_encoder(tmp_path / "encoder")
    rows = [{"text": "The film is a newword", "label": "ab"[i % 2]} for i in range(20)]
    from dist_ai.text import TextDataLoaders

    dls = TextDataLoaders.from_df(rows, text_col="text", label_col="label", min_freq=1, bs=4, num_workers=0)
    learn = classifier(dls, pretrained=tmp_path / "encoder")
    before, after = of_lm.model.encoder.embedding.weight, learn.model.encoder.embedding.weight
    old, new = of_lm.dls.vocab, dls.tokenize.vocab
    assert torch.equal(after[new.index("film")], before[old.index("film")])
    torch.testing.assert_close(after[new.index("newword")], before.mean(0))


def test_encoders_that_do_not_fit_are_named(tmp_path: Path) -> None:
    of_lm = language_model()
    of_lm.save_encoder(tmp_path / "encoder")
    with pytest.raises(
        ArtifactError, match=r"read texts forwards, and these loaders do not; make them with backwards=False"
    ):
        classifier(loaders(backwards=True), pretrained=tmp_path / "encoder")
    with pytest.raises(ArtifactError, match=r"has 'embedding\.weight' in shape .* Load it into the architecture"):
        classifier(config={**SMALL, "emb_sz": 10}, pretrained=tmp_path / "encoder")
    with pytest.raises(ArtifactError):
        classifier(pretrained=tmp_path / "nowhere")


def test_a_language_model_of_backwards_texts_learns() -> None:
    learn = language_model(loaders(is_lm=True, bs=6, seq_len=7, backwards=True))
    learn.fit(2, 1e-2)
    assert learn.recorder.losses[-1] < learn.recorder.losses[0]


# ------------------------------------------------------------------------------------ layers


def test_the_decoder_and_the_embedding_are_one() -> None:
    model = text_language_model("awd_lstm", 30, config=SMALL)
    assert model.decoder.weight is model.encoder.embedding.weight
    assert sum(p.numel() for group in text_splitter(model) for p in group) == sum(p.numel() for p in model.parameters())
    apart = text_language_model("awd_lstm", 30, config={**SMALL, "tie_weights": False})
    assert apart.decoder.weight is not apart.encoder.embedding.weight


def test_a_layer_computes_what_torchs_does() -> None:
    ours, theirs = LSTMLayer(5, 7, 0.0), torch.nn.LSTM(5, 7, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": value for name, value in ours.state_dict().items()})
    x = torch.randn(3, 4, 5)
    (out, (h, c)), (out2, (h2, c2)) = ours(x, None), theirs(x)
    for mine, other in ((out, out2), (h, h2[0]), (c, c2[0])):
        torch.testing.assert_close(mine, other)


def test_dropout_in_a_fit_is_drawn_by_sample_and_outside_by_torch() -> None:
    layer = LSTMLayer(5, 64, 0.5)
    assert not torch.equal(layer._dropped(layer.weight_hh), layer._dropped(layer.weight_hh))
    layer.batch_key = torch.tensor(7)
    once, again = layer._dropped(layer.weight_hh), layer._dropped(layer.weight_hh)
    assert torch.equal(once, again)
    assert abs(float((once == 0).float().mean()) - 0.5) < 0.02
    rows, columns = (once == 0).float().mean(1), (once == 0).float().mean(0)
    assert rows.std() < 0.1  # 64 cells of a row: as much as chance has
    assert columns.std() < 0.06
    layer.batch_key = torch.tensor(8)
    assert 0.4 < float(((layer._dropped(layer.weight_hh) == 0) == (once == 0)).float().mean()) < 0.6


@pytest.mark.parametrize("precision", ["bf16"])
@pytest.mark.parametrize("arch", ["awd_lstm", "gpt"])
def test_both_learn_in_bf16(arch: str, precision: Any) -> None:
    for learn in (language_model(arch=arch, precision=precision), classifier(arch=arch, precision=precision)):
        learn.fit(1, 1e-2)
        assert torch.tensor(learn.recorder.losses).isfinite().all()


# ------------------------------------------------------------------------------------ stopped and gone on


class StopAt(Callback):
    """Ends the fit behind a step, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_batch(self) -> None:
        if self.state.training and self.state.steps_before + self.state.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("make", [language_model, classifier])
def test_stopped_in_the_middle_of_an_epoch_it_ends_bit_identical(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def program(folder: str, *cbs: Callback) -> Any:
        learn = make(run_dir=tmp_path / folder, checkpoint_every_s=None, checkpoint_every_steps=1, cbs=cbs)
        learn.fit_one_cycle(2, 1e-2)
        return learn

    whole = program("whole")
    with pytest.raises(KeyboardInterrupt):
        program("stopped", StopAt(2))
    gone_on = program("stopped")
    assert "fit 1 goes on at epoch 0, step 2" in capsys.readouterr().out
    assert gone_on.recorder.losses == whole.recorder.losses
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, gone_on.model.state_dict()[name]), name


def test_the_state_is_carried_within_an_epoch_and_not_beyond() -> None:
    seen: list[tuple[bool, bool]] = []

    class Look(Callback):
        """Notes whether there is a state when a batch begins."""

        def before_batch(self) -> None:
            seen.append((self.state.training, bool(self.learn.model.carried)))

    learn = language_model(cbs=Look())
    learn.fit(2)
    of_epoch = [True] * len(learn.dls.train)
    training = [carried for is_training, carried in seen if is_training]
    assert training == [False, *of_epoch[1:]] * 2
    assert learn.model.carried is None


def test_a_validation_in_the_middle_of_an_epoch_leaves_the_carried_state() -> None:
    plain, often = language_model(), language_model()
    plain.fit(1)
    often.fit(1, valid_every=3)
    assert plain.recorder.losses == often.recorder.losses


# ------------------------------------------------------------------------------------ what cannot work


def test_what_cannot_work_is_named() -> None:
    with pytest.raises(ConfigError, match="these loaders are not of a language model; make them with is_lm=True"):
        language_model(loaders())
    with pytest.raises(ConfigError, match="these loaders are of a language model; make them without is_lm"):
        classifier(loaders(is_lm=True, bs=4))
    with pytest.raises(
        ConfigError, match=re.escape("arch='awd_lstn'; did you mean 'awd_lstm'?: expected one of awd_lstm, gpt")
    ):
        classifier(arch="awd_lstn", config=SMALL)
    with pytest.raises(
        ConfigError,
        match=r"architecture 'awd_lstm' has no 'n_hidden'; did you mean 'n_hid'\?; config may have .*emb_sz, n_hid",
    ):
        classifier(config={"n_hidden": 3})
    with pytest.raises(
        ConfigError, match='arch="transformer" sees what follows; a language model must not: use arch="gpt"'
    ):
        language_model(arch="transformer")
    with pytest.raises(ConfigError, match="bs=1: the head's BatchNorm needs at least 2 texts in a training batch"):
        classifier(loaders(bs=1))
    with pytest.raises(ConfigError, match="CarryState: Sequential has no attribute 'carried'; leave CarryState out"):
        make_learner(cbs=CarryState()).fit(1)
    for options, said in (
        ({"seq_len": 0}, "seq_len=0: expected at least 1 token"),
        ({"max_len": 0}, "max_len=0: expected at least 1 token"),
        ({"lin_ftrs": [-3]}, r"lin_ftrs=\[-3\]: expected sizes, whole numbers of at least 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            classifier(**options)
    with pytest.raises(ConfigError, match=r"emb_sz=18 for n_heads=4: expected a multiple of 8"):
        language_model(arch="gpt", config={"emb_sz": 18, "n_heads": 4})
    with pytest.raises(ConfigError, match=r"RNNDropout\(p=2\.0\): expected the share that is dropped"):
        language_model(drop_mult=8.0)
    with pytest.raises(ConfigError, match=r"AWD_LSTM\(vocab_sz=3, .*n_layers=0\): expected at least 1 of each"):
        AWD_LSTM(3, n_layers=0)


def test_a_begin_that_is_no_text_and_draws_beside_a_beam_are_named(lm: Any) -> None:
    for begin in (None, 3, ["The"]):
        with pytest.raises(ConfigError, match="is no begin of a text; expected a string"):
            lm.predict(begin)
    for option in ({"top_k": 3}, {"temperature": 0.5}):
        [name] = option
        with pytest.raises(ConfigError, match=f"{name} beside beam=2: a beam search draws nothing; give one of them"):
            lm.predict("The film", 3, beam=2, **option)


def ending_model() -> Any:
    """Returns a learner whose model writes "a b xxeos a b xxeos" for ever."""
    tokenize = Tokenize(min_freq=1, rules=[*DEFAULT_RULES, "add_eos"], max_length=5)
    learn = language_model(loaders(is_lm=True, bs=6, seq_len=7, tok_tfm=tokenize), "gpt")
    first, second, end = 20, 21, learn.tokenize.id_of("xxeos")

    def continued(ids: torch.Tensor, state: Any) -> Any:
        following = {first: second, second: end}
        logits = torch.full((len(ids), learn.tokenize.num_outputs), -20.0)
        for row, last in enumerate(ids[:, -1].tolist()):
            logits[row, following.get(last, first)] = 0.0
        return logits, {"ids": ids}

    learn.model.continued = continued
    return learn


def test_a_text_ends_where_the_model_writes_its_end_and_its_begin_is_never_cut() -> None:
    learn = ending_model()
    a, b = learn.tokenize.tokens([20, 21])
    begin = "the film is a story with music and actors"
    assert len(learn.tokenize(begin)) == 5
    for how in ({"temperature": 0}, {"beam": 2}):
        assert learn.predict(begin, 9, **how) == f"{begin} {a} {b}"
        assert learn.predict(begin, 9, stop=a, **how) == f"{begin} {a}"
    with pytest.raises(ConfigError, match=r"stop='moviee' is no token of the vocabulary"):
        learn.predict(begin, 9, stop="moviee")
    with pytest.raises(
        ConfigError, match="stop=5: expected a token as the vocabulary has it, such as 'xxeos', not its id"
    ):
        learn.predict(begin, 9, stop=5)  # type: ignore[arg-type]  # wrong on purpose


def test_backwards_the_begin_of_a_text_is_its_end() -> None:
    learn = language_model(loaders(is_lm=True, bs=6, seq_len=7, backwards=True), "gpt")
    tokenize = learn.tokenize
    assert tokenize.end_id == tokenize.id_of("xxbos")
    seen = []
    learn.model.continued = lambda ids, state: (seen.append(ids), (torch.zeros(1, tokenize.num_outputs), {}))[1]
    learn.predict("a film", 1)
    assert tokenize.tokens(seen[0][0]) == ["film", "a"]


def test_numbers_that_a_text_predicts_stay_within_their_range(tmp_path: Path) -> None:
    rows = [{"text": each["text"], "stars": 100.0 * i} for i, each in enumerate(reviews(20))]
    dls = TextDataLoaders.from_df(rows, label_col="stars", text_col="text", bs=4, min_freq=1, num_workers=0)
    learn = classifier(dls, metrics=(), y_range=(0, 5))
    learn.fit(1, 1e-1)
    assert 0 <= learn.get_preds()[0].min() <= learn.get_preds()[0].max() <= 5
    learn.export(tmp_path / "export")
    torch.testing.assert_close(load_learner(tmp_path / "export").predict("A film")[2], learn.predict("A film")[2])
    with pytest.raises(ConfigError, match=r"y_range=\(5, 0\): expected the lower end first"):
        classifier(dls, y_range=(5, 0))


def test_new_texts_of_a_language_model_want_loaders_of_their_own(lm: Any) -> None:
    with pytest.raises(DataError, match="a language model reads streams and not one text after the other"):
        lm.dls.test_dl(["A film."])
    new = loaders(40, is_lm=True, bs=6, seq_len=7, min_freq=None, text_vocab=lm.dls.tokenize)
    assert len(lm.validate(new.valid)) == 2


def test_a_predictor_of_a_language_model_says_what_writes(lm: Any, tmp_path: Path) -> None:
    lm.export(tmp_path / "export")
    with pytest.raises(ConfigError, match=r"it continues it: load_learner\(directory\).predict\(text, n_words=20\)"):
        Predictor(tmp_path / "export").predict("The film")


def test_the_learners_of_a_program_hand_on_an_encoder_by_its_bare_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "train.py", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    of_lm = language_model(run_dir="auto")
    of_texts = classifier(run_dir="auto")
    assert of_texts.run_dir == Path("runs/train/learner-2")
    assert of_lm.save_encoder("encoder") == Path("runs/train/models/encoder")
    assert of_texts.save_encoder("mine") == Path("runs/train/models/mine")
    of_texts.load_encoder("encoder")
    begun = classifier(run_dir="auto", pretrained="encoder").model.encoder.state_dict()
    for name, tensor in of_texts.model.encoder.state_dict().items():
        torch.testing.assert_close(begun[name], tensor)
    elsewhere = classifier(run_dir=tmp_path / "mine")
    assert elsewhere.save_encoder("encoder") == tmp_path / "mine" / "models" / "encoder"


def test_pretrained_true_says_where_weights_are_from_and_false_is_none() -> None:
    with pytest.raises(
        ConfigError, match="pretrained=True: no weights come with dist_ai; give what save_encoder wrote"
    ):
        classifier(pretrained=True)
    assert not classifier(pretrained=False).recorder.losses
