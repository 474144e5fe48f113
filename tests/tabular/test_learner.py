"""Learners of tables: they learn, show, predict, export and say what they need."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tables import people, people_learner, people_loaders
from torch import nn

from dist_ai.cli.predict import predict
from dist_ai.core import TabularRow, Transform
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.errors import ArtifactError, ConfigError, DataError
from dist_ai.export import Predictor
from dist_ai.learner import load_learner
from dist_ai.metrics import accuracy, rmse
from dist_ai.tabular import (
    Categorify,
    FillMissing,
    FTTransformer,
    Normalize,
    TabularModel,
    TabularResNet,
    feature_importance,
    tabular_learner,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "tabular_model": {"ps": 0.1, "embed_p": 0.05, "bn_final": True},
    "tabular_resnet": {"d_main": 16, "d_hidden": 24, "n_blocks": 1},
    "ft_transformer": {"d_token": 16, "n_blocks": 2, "n_heads": 2},
}


@dataclass
class RowsInDouble(Transform):
    """Gives the model float64 numbers."""

    order: ClassVar[int] = 11

    def encodes(self, x: TabularRow) -> Any:
        return TabularRow(x.cats, x.conts.double())


def learn_in_double() -> dict[str, Any]:
    """Returns what must not depend on the number of processes, for a model with BatchNorm and dropout and one with attention."""
    found: dict[str, Any] = {}
    for arch in ("tabular_model", "ft_transformer"):
        dls = people_loaders(batch_tfms=[RowsInDouble()], bs=43, seed=3)  # the last batch has 4 of 90
        learn = tabular_learner(
            dls, arch=arch, config=CONFIGS[arch], metrics=accuracy, run_dir=None, progress=False, strategy="ddp"
        )
        learn.model.double()
        learn.fit_one_cycle(2, 0.01)
        found[f"{arch} losses"], found[f"{arch} final"] = learn.recorder.losses, learn.recorder.final
        found[f"{arch} predictions"] = learn.get_preds()[0].double().numpy()
    return found


def test_1_2_and_3_processes_learn_the_same(spawn: Any) -> None:
    [alone] = spawn(1, learn_in_double)
    assert len(alone["tabular_model losses"]) == 6
    for world_size in (2, 3):
        for rank in spawn(world_size, learn_in_double):
            for name, value in alone.items():
                torch.testing.assert_close(torch.as_tensor(rank[name]), torch.as_tensor(value), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_architecture_learns(arch: str, precision: Any) -> None:
    dls = people_loaders(people(400), bs=32)
    learn = tabular_learner(
        dls, arch=arch, config=CONFIGS[arch], metrics=accuracy, run_dir=None, progress=False, precision=precision
    )
    learn.fit_one_cycle(6, 0.02)
    assert learn.recorder.final[1] > 0.8


@pytest.mark.parametrize("arch", CONFIGS)
def test_an_export_predicts_what_the_learner_did(arch: str, tmp_path: Path) -> None:
    learn = tabular_learner(people_loaders(), arch=arch, config=CONFIGS[arch], run_dir=None, progress=False)
    learn.fit(1, 0.01)
    rows = people(7, seed=5)
    expected, _ = learn.get_preds(learn.dls.test_dl(rows))
    learn.export(tmp_path / "model")
    predictor = Predictor(tmp_path / "model")
    torch.testing.assert_close(torch.stack([p.output for p in predictor.predict_many(rows)]), expected)
    one = rows.iloc[3]
    for label, number, probabilities in (learn.predict(one), load_learner(tmp_path / "model").predict(one.to_dict())):
        torch.testing.assert_close(probabilities, expected[3])
        assert label == predictor.vocab[number]
    assert learn.predict(rows.iloc[3:4])[0] == learn.predict(one)[0]
    with pytest.raises(DataError, match=r"a data frame of 7 rows where one row is expected; .*predict_many\(df\)"):
        learn.predict(rows)
    assert predictor.predict({"job": "astronaut", "town": "A", "age": None, "hours": 3}).label in ("yes", "no")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["Linear", "ReLU", "BatchNorm1d(6)", "Linear(bias)"]),
        ({"bn_final": True}, ["Linear", "ReLU", "BatchNorm1d(6)", "Linear", "BatchNorm1d(2)"]),
        ({"bn_final": True, "use_bn": False}, ["Linear(bias)", "ReLU", "Linear(bias)"]),
        ({"bn_final": True, "lin_first": False}, ["BatchNorm1d(5)", "Linear", "ReLU", "BatchNorm1d(6)", "Linear"]),
        ({"lin_first": False}, ["BatchNorm1d(5)", "Linear", "ReLU", "Linear(bias)"]),
    ],
)
def test_the_model_has_the_layers_of_fastai_s(options: dict[str, Any], expected: list[str]) -> None:
    layers = TabularModel([(4, 3)], 2, 2, [6], **options).layers
    found = []
    for layer in layers:
        width = f"({layer.num_features})" if isinstance(layer, nn.BatchNorm1d) else ""
        bias = "(bias)" if isinstance(layer, nn.Linear) and layer.bias is not None else ""
        found.append(f"{type(layer).__name__}{width}{bias}")
    assert found == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emb_szs": [(4, 2)]}, r"emb_szs=\[\(4, 2\)\]: expected numbers by column, such as \{'job': 3\}"),
        ({"emb_szs": {"job": 2.5}}, r"emb_szs=\[2.5\]: expected sizes, whole numbers of at least 1"),
        ({"config": {"act": nn.ReLU}}, r"act=<class 'torch.*ReLU'>: expected relu, gelu"),
        ({"y_range": (0, 1)}, r"y_range=\(0.0, 1.0\) is of numbers.* classes no, yes; .* y_block=RegressionBlock"),
        ({"config": {"y_range": (0, 1)}}, r"y_range=\(0.0, 1.0\) is of numbers"),
        ({"n_out": 0}, r"out_sz=\[0\]: expected sizes"),
        ({"arch": "tabular_resnet", "config": {"d_hidden": -1}}, r"d_hidden=\[-1\]: expected sizes"),
        ({"arch": "tabular_resnet", "config": {"n_blocks": 2.5}}, r"n_blocks=\[2.5\]: expected sizes"),
        ({"arch": "ft_transformer", "config": {"n_heads": 0}}, r"n_heads=\[0\]: expected sizes"),
        ({"arch": "ft_transformer", "config": {"d_hidden": 0}}, r"d_hidden=\[0\]: expected sizes"),
    ],
)
def test_what_makes_no_model_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tabular_learner(people_loaders(), run_dir=None, progress=False, **options)


def test_a_range_that_has_no_end_is_named() -> None:
    loaders = people_loaders(y_names="score")
    with pytest.raises(ConfigError, match=r"y_range=\(0, inf\) has no end; expected two numbers, or no y_range"):
        tabular_learner(loaders, y_range=(0, float("inf")), run_dir=None, progress=False)
    for model in (TabularModel, TabularResNet, FTTransformer):
        with pytest.raises(ConfigError, match=r"y_range=\(0,\): expected two numbers"):
            model([(4, 3)], 1, 1, y_range=(0,))
        with pytest.raises(ConfigError, match=r"n_cont=-1: expected how many continuous columns there are"):
            model([(4, 3)], -1, 1)


def test_regressions_stay_in_their_range_and_learn() -> None:
    dls = people_loaders(people(400), y_names="score", bs=32)
    learn = people_learner(dls, y_range=(0, 10), metrics=rmse)
    learn.fit_one_cycle(8, 0.02)
    predictions, _ = learn.get_preds()
    assert predictions.min() >= 0
    assert predictions.max() <= 10
    assert learn.recorder.final[1] < 0.7
    assert isinstance(learn.predict(people(1).iloc[0])[0], float)


def test_several_labels_and_numbers_are_predicted() -> None:
    frame = people(200)
    frame["a"], frame["b"] = (frame["score"] > 5).astype(int), (frame["hours"] > 40).astype(int)
    learn = people_learner(people_loaders(frame, y_names=["a", "b"]))
    learn.fit(2, 0.02)
    assert set(learn.predict(frame.iloc[0])[0]) <= {"a", "b"}
    learn = people_learner(people_loaders(frame, y_names=["score", "a"], y_block=None))
    learn.fit(1, 0.02)
    assert list(learn.predict(frame.iloc[0])[0]) == ["score", "a"]


def test_several_targets_are_shown_under_the_names_of_their_columns(tmp_path: Path) -> None:
    learn = people_learner(people_loaders(y_names=["score", "hours"], cont_names="age"))
    shown = texts_of(learn.dls.show_batch(max_n=1))
    assert {"score (target)", "hours (target)"} <= set(shown)
    results = texts_of(learn.show_results(max_n=1))
    assert "score (prediction)" in " ".join(results)
    assert "hours (prediction)" in " ".join(results)
    learn.export(tmp_path / "model")
    again = Predictor(tmp_path / "model").predict(people(1).iloc[0].to_dict()).label
    assert again == pytest.approx(learn.predict(people(1).iloc[0])[0], rel=1e-4)


@pytest.mark.parametrize("y_names", ["rich", "score", ["score", "hours"]])
def test_an_exported_model_is_scored_on_new_rows_that_have_their_targets(y_names: Any, tmp_path: Path) -> None:
    learn = people_learner(people_loaders(y_names=y_names, cont_names="age"))
    learn.fit(1, 0.02)
    learn.export(tmp_path / "model")
    new = people(40, seed=5)
    loaded = load_learner(tmp_path / "model")
    expected = learn.validate(learn.dls.test_dl(new, with_labels=True, num_workers=0))[0]
    assert loaded.validate(loaded.dls.test_dl(new, with_labels=True, num_workers=0))[0] == pytest.approx(expected)
    with pytest.raises(DataError, match=r"no column '(rich|score)'; there are job, town, age"):
        loaded.dls.test_dl(new.drop(columns=["rich", "score"]), with_labels=True)


def test_rows_are_printed_as_a_table() -> None:
    learn = people_learner(people_loaders(y_names="score"))
    batch, results = learn.dls.show_batch(max_n=2), learn.show_results(max_n=2)
    assert str(batch).splitlines()[0].split() == ["job", "town", "age", "hours", "target"]
    assert str(results).splitlines()[0].split() == ["job", "town", "age", "hours", "target", "prediction"]
    first = learn.dls.decode_batch(learn.dls.one_batch())[0]
    _, line, row, *_ = repr(batch).splitlines()
    assert (len(line), set(line)) == (len(line.strip()), {"─"})
    assert row.split()[-1] == f"{first[1]:.4g}"


def texts_of(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_batches_and_results_are_shown_as_tables() -> None:
    learn = people_learner()
    batch = learn.dls.show_batch(max_n=3)
    texts = [text.get_text() for axes in batch.axes for text in axes.findobj(lambda x: hasattr(x, "get_text"))]
    assert {"job", "age", "target"} <= set(texts)
    assert "age_na" not in texts
    results = learn.show_results(max_n=3)
    texts = [text.get_text() for axes in results.axes for text in axes.findobj(lambda x: hasattr(x, "get_text"))]
    assert {"job", "prediction"} <= set(texts)


def test_embeddings_have_the_rule_s_sizes_or_those_given() -> None:
    learn = people_learner(emb_szs={"town": 7})
    assert [tuple(table.weight.shape) for table in learn.model.embeds.tables] == [(4, 3), (3, 7), (3, 3)]
    assert "embeds" in repr(learn.summary())


def test_first_weights_depend_on_the_seed_alone() -> None:
    weights = []
    for _ in range(2):
        torch.rand(3)
        weights.append(people_learner().model.layers[0].weight)
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "tabular_resnett"}, r"expected tabular_model, .*did you mean 'tabular_resnet'"),
        ({"emb_szs": {"twon": 3}}, r"emb_szs names 'twon', which is no categorical column; did you mean 'town'"),
        ({"config": {"dropout": 0.1}}, r"unexpected keyword argument 'dropout'; see TabularModel"),
        ({"config": {"ps": [0.1, 0.2]}}, r"ps=\[0.1, 0.2\] for layers=\[16\]"),
        ({"config": {"act": "reelu"}}, r"act='reelu': expected relu, .*did you mean 'relu'"),
        ({"arch": "ft_transformer"}, r"layers=\[16\] is for arch='tabular_model'"),
        ({"y_range": (3, 1)}, r"y_range=\(3, 1\): expected the lower end first"),
        ({"y_range": 5}, r"y_range=5: expected two numbers, \(low, high\)"),
        ({"layers": [16, 0]}, r"layers=\[16, 0\]: expected sizes, whole numbers of at least 1"),
        ({"layers": 16}, r"layers=16: expected sizes"),
    ],
)
def test_what_is_wrong_with_a_learner_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        people_learner(**options)


def test_other_loaders_and_unnumbered_columns_are_named() -> None:
    x = torch.rand(8, 2)
    dls = DataLoaders(DataLoader(TensorData(x, x)), DataLoader(TensorData(x, x)))
    with pytest.raises(ConfigError, match="not of a table's rows"):
        tabular_learner(dls)
    rows = people().assign(kind=[0, 1] * 60)
    numbered = people_loaders(rows, procs=[FillMissing, Normalize], cat_names=["kind"], cont_names=["hours"])
    with pytest.raises(ConfigError, match="how many categories 'kind' has; add Categorify"):
        people_learner(numbered)


def test_an_unknown_proc_of_an_export_is_named(tmp_path: Path) -> None:
    from dist_ai.data.procs import procs_from_plain

    with pytest.raises(
        ArtifactError, match="tabular proc 'Categorifi' is not known in this program; did you mean 'Categorify'"
    ):
        procs_from_plain([{"proc": "Categorifi"}])
    assert procs_from_plain([Categorify({"a": ["#na#", "x"]}).to_plain()]) == [Categorify({"a": ["#na#", "x"]})]


def test_the_columns_that_say_something_are_the_important_ones() -> None:
    learn = people_learner(people_loaders(people(500), bs=32))
    learn.fit_one_cycle(6, 0.02)
    found = feature_importance(learn, num_repeats=2)
    assert {each.column for each in found} == {"job", "town", "age_na", "age", "hours"}
    assert {each.column for each in found[:2]} == {"job", "age"}
    assert found[0].mean > 0.1
    assert [each.mean for each in found] == [each.mean for each in feature_importance(learn, num_repeats=2)]
    with pytest.raises(ConfigError, match="num_repeats=0: expected at least 1"):
        feature_importance(learn, num_repeats=0)
    with pytest.raises(DataError, match="rows with targets"):
        feature_importance(learn, learn.dls.test_dl(people(5)))


def test_the_command_predicts_the_rows_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = people().assign(job=[f"00{i % 3}" for i in range(120)])
    learn = people_learner(people_loaders(codes))
    learn.fit(1, 0.02)
    learn.export(tmp_path / "model")
    rows = codes[:5].drop(columns=["rich", "score"])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_parquet(tmp_path / "rows.parquet")
    expected, _ = learn.get_preds(learn.dls.test_dl(rows))
    predict(tmp_path / "model", [tmp_path / "rows.csv", tmp_path / "rows.parquet"], as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(Path(line["file"]).name, line["row"]) for line in lines[4:6]] == [("rows.csv", 4), ("rows.parquet", 0)]
    assert [line["confidence"] for line in lines[:5]] == pytest.approx(expected.amax(1).tolist())
    assert lines[:5] == [{**line, "file": str(tmp_path / "rows.csv")} for line in lines[5:]]
    predict(tmp_path / "model", [tmp_path / "rows.csv"])
    assert capsys.readouterr().out.startswith(f"{tmp_path}/rows.csv 0  ")
    with pytest.raises(ConfigError, match="--picture draws images"):
        predict(tmp_path / "model", [tmp_path / "rows.csv"], picture=tmp_path / "a.png")


def test_validation_of_rows_without_their_labels_is_refused() -> None:
    learn = people_learner()
    dl = learn.dls.test_dl(people(20))
    assert learn.get_preds(dl)[1] is None
    with pytest.raises(DataError, match=r"no targets to hold predictions against; .*with_labels=True"):
        learn.validate(dl)
