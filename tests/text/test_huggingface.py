"""Models of transformers in a Learner: classification, tokens, language, embeddings, LoRA; on many ranks, exported, loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import loaders, reviews

from dist_ai.core.types import TensorCategory, TensorText
from dist_ai.data import DataBlock, Pad, TransformBlock
from dist_ai.distributed.strategies import FSDP
from dist_ai.errors import ArtifactError, ConfigError, DataError, MissingDependencyError
from dist_ai.export import Predictor
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy
from dist_ai.text import TextDataLoaders, hf_learner, load_text_learner
from dist_ai.text.huggingface import embed, hf_model

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}


def learner(dls: Any, source: Any, **options: Any) -> Any:
    return hf_learner(dls, source, **{"run_dir": None, "progress": False, **options})


@pytest.fixture(scope="module", params=["own", "mean"])
def bert(request: Any) -> Any:
    """Returns a trained classifier's learner, by the first token or by the mean of all."""
    source = {**BERT, "hidden_dropout_prob": 0.0, "initializer_range": 0.2}
    learn = learner(loaders(160), source, metrics=accuracy, pooling=request.param)
    learn.fit_one_cycle(12, 5e-3)
    return learn


def test_a_bert_learns_to_classify_and_predicts_after_its_export(bert: Any, tmp_path: Path) -> None:
    assert bert.recorder.final[1] >= 0.8
    bert.export(tmp_path / "export")
    texts = ["The film is a superb story", "The awful music in it"]
    assert [each.label for each in Predictor(tmp_path / "export").predict_many(texts)] == ["pos", "neg"]
    assert load_text_learner(tmp_path / "export").predict(texts[0])[0] == bert.predict(texts[0])[0] == "pos"


def test_its_groups_are_the_embeddings_each_layer_and_the_head(bert: Any) -> None:
    groups = bert.splitter(bert.model)
    assert len(groups) == 4
    assert sum(map(len, groups)) == len(list(bert.model.parameters()))


def test_padding_counts_nothing(bert: Any) -> None:
    model = bert.model.eval()
    ids = torch.randint(9, 20, (3, 8))
    torch.testing.assert_close(model(torch.nn.functional.pad(ids, (0, 7), value=1)), model(ids), rtol=1e-4, atol=1e-5)


def test_a_gpt2_writes_after_its_export(tmp_path: Path) -> None:
    learn = learner(loaders(is_lm=True, bs=6, seq_len=7), GPT2)
    learn.fit(2, 1e-2)
    assert learn.recorder.losses[-1] < learn.recorder.losses[0]
    text = learn.predict("The film", 6, top_k=10)
    assert text.startswith("The film ")
    learn.export(tmp_path / "export")
    again = load_text_learner(tmp_path / "export")
    assert again.predict("The film", 6, top_k=10) == text
    assert again.predict("The film", 4, beam=3) == learn.predict("The film", 4, beam=3)


@pytest.mark.parametrize("pooling", ["own", "mean"])
def test_lora_trains_little_and_leaves_the_weights(tmp_path: Path, pooling: Any) -> None:
    learn = learner(loaders(), BERT, pooling=pooling, lora={"r": 2, "target_modules": ["query", "value"]})
    before = {name: p.clone() for name, p in learn.model.named_parameters()}
    learn.fit(1, 1e-2)
    changed = {name for name, p in learn.model.named_parameters() if not torch.equal(before[name], p)}
    assert changed
    assert all("lora_" in name or "classifier" in name or "head" in name for name in changed)
    learn.export(tmp_path / "export")
    assert Predictor(tmp_path / "export").predict("A film").label == learn.predict("A film")[0]


def test_lora_trains_what_its_options_say(tmp_path: Path) -> None:
    lora = {"r": 2, "target_modules": ["query", "value"], "bias": "all", "modules_to_save": ["classifier"]}
    learn = learner(loaders(), BERT, lora=lora)
    before = {name: p.clone() for name, p in learn.model.named_parameters()}
    learn.fit(1, 1e-2)
    changed = {name for name, p in learn.model.named_parameters() if not torch.equal(before[name], p)}
    # A softmax is the same whatever bias the keys have.
    biases = {
        name for name in before if name.endswith("bias") and "original_module" not in name and ".key." not in name
    }
    assert len(biases) > 10
    assert biases <= changed
    assert all("lora_" in name or name.endswith("bias") or "modules_to_save" in name for name in changed)
    learn.freeze()
    assert all("classifier" in name for name, p in learn.model.named_parameters() if p.requires_grad)
    learn.unfreeze()
    assert {name for name, p in learn.model.named_parameters() if p.requires_grad} >= biases
    learn.export(tmp_path / "export")
    assert load_text_learner(tmp_path / "export").model.learning == learn.model.learning


def test_what_lora_leaves_stays_frozen_whatever_is_unfrozen(tmp_path: Path) -> None:
    learn = learner(loaders(), BERT, lora={"r": 2, "target_modules": ["query", "value"]})

    def learning() -> set[str]:
        return {name for name, p in learn.model.named_parameters() if p.requires_grad}

    trained = learning()
    assert {name.split(".")[1] for name in trained if "lora_" not in name} == {"classifier"}
    before = {name: p.clone() for name, p in learn.model.named_parameters()}
    learn.fine_tune(1, 1e-2)
    assert learning() == trained
    changed = {name for name, p in learn.model.named_parameters() if not torch.equal(before[name], p)}
    assert changed <= trained
    assert any("lora_" in name for name in changed)
    learn.freeze()
    assert learning() == {name for name in trained if "lora_" not in name}
    learn.export(tmp_path / "export")
    learn = load_text_learner(tmp_path / "export")
    learn.unfreeze()
    assert learning() == trained


@pytest.mark.parametrize("pooling", ["own", "mean"])
def test_numbers_that_a_text_predicts_stay_within_their_range(pooling: Any) -> None:
    rows = [{"text": each["text"], "stars": 100.0 * i} for i, each in enumerate(reviews(20))]
    dls = TextDataLoaders.from_df(rows, label_col="stars", text_col="text", bs=4, min_freq=1, num_workers=0)
    learn = learner(dls, BERT, y_range=(0, 5), pooling=pooling)
    learn.fit(1, 1e-1)
    assert 0 <= learn.get_preds()[0].min() <= learn.get_preds()[0].max() <= 5
    with pytest.raises(
        ConfigError, match=r"y_range=\(0, 5\) beside task='embeddings': only numbers that a text predicts"
    ):
        learner(dls, BERT, y_range=(0, 5), task="embeddings")


ROBERTA = {**BERT, "model_type": "roberta"}
ELECTRA = {**BERT, "model_type": "electra", "embedding_size": 16}
BART = {
    "model_type": "bart",
    "d_model": 16,
    "decoder_layers": 1,
    "encoder_layers": 1,
    "decoder_attention_heads": 2,
    "encoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "encoder_ffn_dim": 16,
    "max_position_embeddings": 64,
}
XLM = {"model_type": "xlm", "emb_dim": 16, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}


@pytest.mark.parametrize("source", [BERT, ROBERTA, ELECTRA, GPT2, LLAMA, BART], ids=lambda each: each["model_type"])
def test_a_language_model_does_not_see_what_follows(source: dict[str, Any], tmp_path: Path) -> None:
    learn = learner(loaders(is_lm=True, bs=6, seq_len=7), source)
    ids = torch.randint(9, 20, (1, 8))
    other = ids.clone()
    other[0, -1] = 20
    for model in (learn.model, load_text_learner(learn.export(tmp_path / "export")).model):
        one, two = model.eval()(ids), model(other)
        torch.testing.assert_close(one[:, :-1], two[:, :-1], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(one[:, -1], two[:, -1])


def test_a_model_that_sees_what_follows_is_no_language_model() -> None:
    with pytest.raises(ConfigError, match="a 'xlm' sees the tokens that follow, which a language model is to predict"):
        learner(loaders(is_lm=True, bs=6, seq_len=7), XLM)


def test_each_token_is_classified_and_padding_is_not() -> None:
    items = [torch.randint(9, 20, (length,)) for length in (5, 9, 7, 4, 8, 6, 5, 9, 3, 7)]
    dls = loaders(is_lm=False)
    tokenize = dls.tokenize

    def ids(x: torch.Tensor) -> TensorText:
        return TensorText(x)

    def odd(x: torch.Tensor) -> TensorCategory:
        return TensorCategory(x % 2)

    block = DataBlock(
        (
            TransformBlock(type_tfms=[ids, tokenize], collate=Pad(tokenize.pad_id)),
            TransformBlock(type_tfms=[odd], collate=Pad(-100)),
        )
    )
    of_tokens = block.dataloaders(items, bs=4, num_workers=0)
    loss = CrossEntropyLoss(axis=-1, ignore_index=-100)
    learn = learner(of_tokens, BERT, task="tokens", n_out=2, loss_func=loss)
    learn.fit(20, 1e-2)
    assert learn.recorder.losses[-1] < 0.5 * learn.recorder.losses[0]


def test_embeddings_have_length_1_and_do_not_depend_on_the_batch() -> None:
    learn = learner(loaders(), BERT, task="embeddings")
    texts = ["The film is good", "A story", "It is the music and the actors in it"]
    together = embed(learn, texts)
    assert together.shape == (3, 16)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(embed(learn, texts, bs=1), together, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"texts='hello there': expected several texts; give \['hello there'\]"):
        embed(learn, "hello there")
    with pytest.raises(DataError, match="no texts: there is nothing to embed"):
        embed(learn, [])
    with pytest.raises(ConfigError, match='embed needs a model that was made with task="embeddings"'):
        embed(learner(loaders(), BERT), texts)


def train(strategy: str = "auto", pooling: str = "own") -> dict[str, Any]:
    dls = loaders(40, bs=9)
    options = {"strategy": FSDP(min_block_parameters=100)} if strategy == "fsdp" else {}
    learn = learner(dls, BERT, pooling=pooling, **options)
    learn.model.double()
    learn.fit_one_cycle(2, 1e-3)
    return {"losses": learn.recorder.losses, "final": learn.recorder.final}


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["own", "mean"])
def test_a_bert_with_dropout_agrees_on_1_2_and_3_ranks_and_shared(spawn: Any, pooling: str) -> None:
    [alone] = spawn(1, train, pooling=pooling)
    for size, strategy in ((2, "auto"), (3, "auto"), (2, "fsdp")):
        for rank in spawn(size, train, strategy=strategy, pooling=pooling):
            for name, value in alone.items():
                torch.testing.assert_close(torch.tensor(rank[name]), torch.tensor(value), rtol=1e-8, atol=1e-8)


def test_a_folder_of_weights_is_read(bert: Any, tmp_path: Path) -> None:
    bert.model.model.save_pretrained(tmp_path)
    learn = learner(loaders(160), tmp_path, pooling="own" if bert.model.head is None else "mean")
    for name, weight in bert.model.model.state_dict().items():
        assert torch.equal(learn.model.model.state_dict()[name], weight)


def test_what_cannot_work_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"the tokenizer has \d+ tokens and the model 20; make the loaders with the model's"
    ):
        learner(loaders(), {**BERT, "vocab_size": 20})
    with pytest.raises(
        ConfigError, match="task='classify': expected one of 'classification', 'tokens', 'lm', 'embeddings'"
    ):
        learner(loaders(), BERT, task="classify")
    with pytest.raises(
        ConfigError, match='task="tokens" predicts a class for each token, and these loaders have one for'
    ):
        learner(loaders(), BERT, task="tokens")
    for task, pooling in ((None, "max"), ("tokens", "mean")):
        asked = f"pooling='{pooling}' for task='{task or 'classification'}'"
        with pytest.raises(ConfigError, match=f"{asked}: expected 'own', or for the task 'classification' 'mean'"):
            learner(loaders(), BERT, task=task, pooling=pooling)
    for source, said in (
        ({"model_type": "brt"}, r"model_type='brt': transformers has no such model; did you mean '\w*b\w*rt'"),
        ({**BERT, "hiden_size": 8}, "a configuration of 'bert' has no 'hiden_size'; did you mean 'hidden_size'"),
        (
            {**BERT, "num_attention_heads": 3},
            "a bert cannot be made of this configuration: .*multiple of the number of",
        ),
        (torch.nn.Linear(2, 2), r"source is a Linear, a model; save it with model.save_pretrained\(folder\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            learner(loaders(), source)
    with pytest.raises(  # when it is made, not in the batch of the longest text
        DataError, match=r"a text of \d+ tokens, and the model has 4 places; cut longer texts: .*max_length=4"
    ):
        learner(loaders(), {**BERT, "max_position_embeddings": 4})
    assert learner(loaders(max_length=4), {**BERT, "max_position_embeddings": 4}).model.num_places == 4


@pytest.mark.parametrize(
    ("config", "places"),
    [
        (BERT, 64),
        ({**BERT, "model_type": "roberta"}, 62),  # counted from behind the place of padding
        (GPT2, 64),
        (LLAMA, None),
    ],
)
def test_the_places_of_a_model_are_those_of_its_table(config: dict[str, Any], places: int | None) -> None:
    model = hf_model({**config, "vocab_size": 20}, "classification", 1)
    assert model.num_places == places
    assert model(torch.full((1, places or 200), 3)).shape == (1, 2)
    if places is not None:
        with pytest.raises(DataError, match=f"a text of {places + 1} tokens, and the model has {places} places"):
            model(torch.full((1, places + 1), 3))


def test_options_that_a_configuration_makes_something_else_of_are_taken() -> None:
    model = learner(loaders(), {**LLAMA, "rope_theta": 5e5, "attn_implementation": "eager"}, task="lm").model
    assert model.model.config.rope_parameters["rope_theta"] == 5e5


def test_what_is_no_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match='the configuration has no "model_type", such as "bert"'):
        learner(loaders(), {"hidden_size": 3})
    with pytest.raises(ArtifactError, match=re.escape(f"no model of transformers at {tmp_path}: ")):
        learner(loaders(), tmp_path)
    with pytest.raises(ConfigError, match=r"lora=\{'rank': 3\}: .*unexpected keyword argument 'rank'"):
        learner(loaders(), BERT, lora={"rank": 3})

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(
        MissingDependencyError, match=re.escape("transformers is not installed, and models of Hugging Face")
    ):
        learner(loaders(), BERT)


def test_importing_text_does_not_import_transformers() -> None:
    import subprocess
    import sys

    program = "import sys, dist_ai.text; print([m for m in ('transformers', 'peft', 'sacrebleu') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
