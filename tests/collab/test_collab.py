"""Ratings: loaders, learners, recommendations, and what users chose without rating it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dist_ai.callbacks import on
from dist_ai.collab import CollabDataLoaders, CollabLearner, EmbeddingNN, Recommender, SampleNegatives, collab_learner
from dist_ai.core import Draw, TabularRow, TensorMultiCategory, TensorRegression
from dist_ai.distributed.sharded import local_part, whole
from dist_ai.distributed.strategies import FSDP, TensorParallel
from dist_ai.errors import ConfigError, DataError
from dist_ai.export import Predictor
from dist_ai.learner import load_learner
from dist_ai.metrics import MRR, NDCGAtK, RecallAtK, mae


def ratings(num: int = 600, *, users: int = 20, items: int = 30, seed: int = 0) -> pd.DataFrame:
    """Returns different (user, film) pairs; each user likes even films or odd ones, and some films are better."""
    random = np.random.default_rng(seed)
    pairs = random.choice(users * items, min(num, users * items), replace=False)
    user, item = pairs // items, pairs % items
    liked = (user % 2) == (item % 2)
    stars = np.clip(2.0 + 2.0 * liked + (item % 5) / 5 + random.normal(0, 0.1, len(pairs)), 1, 5)
    return pd.DataFrame({"user": [f"u{u}" for u in user], "film": [f"f{i}" for i in item], "stars": stars})


def chosen() -> pd.DataFrame:
    """Returns what each user liked, without the stars."""
    frame = ratings(400)
    return frame[frame["stars"] > 3.5][["user", "film"]]


NAMES = ("user_name", "item_name", "rating_name")


def texts(figure: Any) -> set[str]:
    return {t.get_text() for axes in figure.axes for t in axes.findobj(lambda x: hasattr(x, "get_text"))}


def ratings_learner(frame: Any = None, *, bs: int = 32, n_factors: int = 8, **options: Any) -> CollabLearner:
    dls = CollabDataLoaders.from_df(ratings(500) if frame is None else frame, bs=bs, seed=1)
    return collab_learner(dls, n_factors, **{"y_range": (0.5, 5.5), "run_dir": None, "progress": False, **options})


# ------------------------------------------------------------------------------------------------ loaders


def test_a_batch_has_user_and_item_and_the_rating(tmp_path: Path) -> None:
    frame = ratings(100)
    frame.to_csv(tmp_path / "r.csv", index=False)
    frame.to_parquet(tmp_path / "r.parquet")
    for dls in (
        CollabDataLoaders.from_df(frame, bs=16),
        CollabDataLoaders.from_csv(tmp_path / "r.csv", bs=16),
        CollabDataLoaders.from_parquet(tmp_path / "r.parquet", bs=16),
        CollabDataLoaders.from_df(frame[["stars", "film", "user"]], **dict(zip(NAMES, frame, strict=True)), bs=16),
    ):
        row, y = dls.one_batch()
        assert row.cats.shape == (16, 2)
        assert isinstance(y, TensorRegression)
        assert y.shape == (16,)
        assert len(dls.train_ds) == 80
    assert "user" in texts(dls.show_batch(3))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"item_name": "flim"}, r"item_name: no column 'flim'; .*did you mean 'film'"),
        ({}, {"user_name": "film"}, r"each needs a column of its own"),
        ({"stars": np.inf}, {}, r"column 'stars' is infinite in row 0"),
        ({"stars": None}, {}, r"the target 'stars' is missing in row 0"),
        ({"stars": "good"}, {}, r"column 'stars' holds 'good' in row 0"),
        ({"user": None}, {}, r"column 'user' has no value in any row"),
        ({"user": [1, "a"] * 50}, {}, r"column 'user' holds values of several types"),
        ({}, {"negatives": 3, "rating_name": "stars"}, r"negatives beside rating_name"),
        ({}, {"valid_negatives": 3}, r"valid_negatives without negatives: with ratings nothing is drawn"),
        ({}, {"negatives": 0}, r"SampleNegatives\(train=0\): expected a whole number of items, at least 1"),
        ({}, {"negatives": 2.5}, r"SampleNegatives\(train=2.5\): expected a whole number of items, at least 1"),
    ],
)
def test_what_is_wrong_with_ratings_is_named(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        CollabDataLoaders.from_df(ratings(100).assign(**change), **options)


def test_columns_have_any_names() -> None:
    frame = chosen()
    for names in (["chosen", "film"], ["chosen", "chosen_"], [0, 1]):
        named = frame.set_axis(names, axis=1)
        for options in ({}, {"user_name": names[0], "item_name": names[1]}):
            dls = CollabDataLoaders.from_df(named, negatives=3, **options)
            assert list(dls.classes) == [str(name) for name in names]


def test_too_few_columns_and_other_loaders_are_named() -> None:
    with pytest.raises(DataError, match=r"there are 2 column\(s\), user, film, and none for rating_name"):
        CollabDataLoaders.from_df(chosen())
    from tables import people_loaders

    with pytest.raises(ConfigError, match="not of users, items and ratings"):
        collab_learner(ratings(50), run_dir=None)  # the frame itself
    with pytest.raises(ConfigError, match="not of users, items and ratings"):
        collab_learner(people_loaders())


def test_arguments_stand_in_fastai_s_order(tmp_path: Path) -> None:
    frame = ratings(100)
    dls = CollabDataLoaders.from_df(frame[["stars", "film", "user"]], 0.05, "user", "film", "stars", 3)
    assert (len(dls.train_ds), len(dls.valid_ds), dls.train.seed) == (95, 5, 3)
    frame.to_csv(tmp_path / "r.csv", index=False)
    named = CollabDataLoaders.from_csv(tmp_path / "r.csv", valid_pct=0.05, seed=3)
    pd.testing.assert_frame_equal(named.valid_ds.frame, dls.valid_ds.frame[list(frame)])
    with pytest.raises(TypeError, match="positional argument"):  # as in fastai; a path that is not used is no share
        CollabDataLoaders.from_csv(tmp_path / "r.csv", 0.05)  # type: ignore[misc]  # wrong on purpose
    with pytest.raises(ConfigError, match=r"valid_pct='\.': expected a share of the rows, such as 0.2, or 0 for none"):
        CollabDataLoaders.from_df(frame, ".")  # type: ignore[arg-type]  # wrong on purpose


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(
    "options", [{}, {"use_nn": True, "layers": [16], "config": {"ps": 0.1}}, {"precision": "bf16"}]
)
def test_ratings_are_learned(options: dict[str, Any]) -> None:
    learn = ratings_learner(metrics=mae, **options)
    learn.fit_one_cycle(12, 0.05)
    assert learn.recorder.final[1] < 0.5  # the mean rating is off by 0.9


def test_the_hidden_layer_has_as_many_units_as_a_user_has_factors() -> None:
    for options, sizes in (({"n_factors": 20}, [20]), ({}, [50]), ({"n_factors": 20, "layers": [7, 5]}, [7, 5])):
        learn = collab_learner(ratings_learner().dls, use_nn=True, run_dir=None, progress=False, **options)
        assert learn.spec is not None
        assert learn.spec.arguments["layers"] == sizes  # as fastai has it


def test_sparse_gradients_learn_too() -> None:
    learn = ratings_learner(metrics=mae, sparse=True, opt_func=torch.optim.SparseAdam)
    assert learn.spec is not None
    assert learn.spec.arguments["sparse"]
    learn.fit_one_cycle(12, 0.05)
    assert learn.recorder.final[1] < 0.5


def learn_in_double() -> dict[str, Any]:
    """Returns what must not depend on the number of processes: ratings, and choices with drawn items."""
    found: dict[str, Any] = {}
    learn = ratings_learner(ratings(90), bs=35, strategy="ddp")
    learn.model.double()
    learn.fit_one_cycle(2, 0.05)
    found["ratings"] = (learn.recorder.losses, learn.recorder.final)
    dls = CollabDataLoaders.from_df(chosen()[:90], negatives=3, valid_negatives=20, bs=35, seed=1)
    metrics = [RecallAtK(5), NDCGAtK(5), MRR()]
    learn = collab_learner(dls, 8, metrics=metrics, strategy="ddp", run_dir=None, progress=False)
    learn.model.double()
    learn.fit_one_cycle(2, 0.05)
    found["choices"] = (learn.recorder.losses, learn.recorder.final)
    # Each batch has a sample for each rank: see the known limits.
    learn = ratings_learner(ratings(100), bs=35, strategy="ddp", sparse=True, opt_func=torch.optim.SparseAdam)
    learn.model.double()
    learn.fit_one_cycle(2, 0.05)
    found["sparse"] = (learn.recorder.losses, learn.recorder.final)
    return found


def test_1_2_and_3_processes_learn_the_same(spawn: Any) -> None:
    [alone] = spawn(1, learn_in_double)
    for world_size in (2, 3):
        for rank in spawn(world_size, learn_in_double):
            for name, numbers in alone.items():
                for got, expected in zip(rank[name], numbers, strict=True):
                    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-8, atol=1e-8)


# ------------------------------------------------------------------------------------------------ recommending


def learn_divided(*, use_nn: bool, size: int) -> dict[str, Any]:
    strategy = TensorParallel(size=size)
    learn = ratings_learner(use_nn=use_nn, strategy=strategy, emb_szs={"user": 8, "film": 6} if use_nn else None)
    learn.model.double()
    widths: list[tuple[int, int]] = []
    look = on("after_pred", lambda learn: widths.append(tuple(local_part(learn.model.u_weight.weight).shape)))
    learn.fit(2, 1e-2, cbs=look)
    answers = float(learn.predict({"user": "nobody", "film": "f3"})[2]), learn.get_preds()[0].tolist()
    weights = {name: whole(p.detach()).tolist() for name, p in learn.model.named_parameters()}
    films = learn.recommender.codes(["f3", "f7"]).tolist()
    torch.testing.assert_close(learn.weight(["f3", "f7"]), torch.tensor(weights["i_weight.weight"]).double()[films])
    return {"widths": set(widths), "losses": learn.recorder.losses, "answers": answers, "weights": weights}


def look_up(*, strategy: Any, use_nn: bool) -> dict[str, Any]:
    learn = ratings_learner(use_nn=use_nn, strategy=strategy, emb_szs={"user": 8, "film": 6} if use_nn else None)
    learn.model.double()
    learn.fit(1, 1e-2)
    weights = {name: whole(p.detach()) for name, p in learn.model.named_parameters()}
    codes = {is_item: learn.recommender.codes(names, is_item=is_item) for is_item, names in LOOKED_UP.items()}
    found = {
        (of, is_item): getattr(learn, of)(names, is_item=is_item)
        for of in (["weight"] if use_nn else ["weight", "bias"])
        for is_item, names in LOOKED_UP.items()
    }
    for (of, is_item), rows in found.items():
        table = weights[f"{'i' if is_item else 'u'}_{of}.weight"]
        assert torch.equal(rows, table[codes[is_item]].squeeze(1) if of == "bias" else table[codes[is_item]])
    scores = learn.recommender.scores("u3").tolist(), learn.recommender.scores("nobody", ["f3", "f7"]).tolist()
    return {"best": learn.recommend("u3", 4), "scores": scores, "rows": [rows.tolist() for rows in found.values()]}


LOOKED_UP = {True: ["f3", "f7", "f3"], False: ["u1"]}


def refuse_sparse(*, strategy: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        ratings_learner(sparse=True, strategy=strategy, opt_func=torch.optim.SparseAdam).fit(1)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "strategy"), [("FSDP", "fsdp"), ("TensorParallel", TensorParallel(size=2))], ids=["fsdp", "tensor"]
)
def test_sparse_gradients_of_sharded_tables_are_refused_by_name(spawn: Any, name: str, strategy: Any) -> None:
    for text in spawn(2, refuse_sparse, strategy=strategy):
        assert text.startswith(
            f"{name}: u_weight is an embedding with sparse=True, and torch divides no sparse gradients"
        )
        assert "give strategy='ddp'" in text


DIVIDED = [(2, "fsdp"), (2, TensorParallel(size=2)), (4, TensorParallel(size=2, data_parallel=FSDP()))]


@pytest.mark.parametrize(("world_size", "strategy"), DIVIDED, ids=["fsdp", "tensor", "both"])
@pytest.mark.parametrize("use_nn", [False, True], ids=["factors", "layers"])
def test_what_sharded_tables_know_is_looked_up_and_recommended(
    spawn: Any, world_size: int, strategy: Any, use_nn: bool
) -> None:
    alone = look_up(strategy="auto", use_nn=use_nn)
    for rank in spawn(world_size, look_up, strategy=strategy, use_nn=use_nn):
        assert [item for item, _ in rank["best"]] == [item for item, _ in alone["best"]]
        for got, expected in zip((*rank["scores"], *rank["rows"]), (*alone["scores"], *alone["rows"]), strict=True):
            torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("use_nn", [False, True], ids=["factors", "layers"])
def test_tables_that_ranks_have_a_part_of_each_learn_the_same(spawn: Any, use_nn: bool) -> None:
    [alone] = spawn(1, learn_divided, use_nn=use_nn, size=1)
    [(rows, width)] = alone["widths"]
    for rank in spawn(2, learn_divided, use_nn=use_nn, size=2):
        assert rank["widths"] == {(rows, width // 2)}
        for got, expected in zip(
            (rank["losses"], *rank["answers"], *rank["weights"].values()),
            (alone["losses"], *alone["answers"], *alone["weights"].values()),
            strict=True,
        ):
            torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), rtol=1e-8, atol=1e-8)


def test_recommendations_leave_out_what_was_seen_and_know_what_is_liked() -> None:
    learn = ratings_learner()
    learn.fit_one_cycle(12, 0.05)
    seen = set(learn.dls.train_ds.frame.query("user == 'u4'")["film"])
    best = learn.recommend("u4", 4)
    assert not seen & {item for item, _ in best}
    assert [score for _, score in best] == sorted((score for _, score in best), reverse=True)
    liked = [int(item[1:]) % 2 == 0 for item, _ in learn.recommend("u4", 5, exclude_seen=False)]
    assert sum(liked) >= 4
    assert len(learn.recommend("u4", 1000)) == 30 - len(seen)
    assert best[0][0] not in {item for item, _ in learn.recommend("u4", 4, exclude=[best[0][0]])}


def test_an_export_recommends_and_predicts_as_the_learner(tmp_path: Path) -> None:
    learn = ratings_learner()
    learn.fit(1, 0.05)
    learn.export(tmp_path / "model")
    recommender = Recommender.load(tmp_path / "model")
    assert recommender.recommend("u3", 5) == learn.recommend("u3", 5, exclude_seen=False)
    pairs = [{"user": "u3", "film": "f2"}, {"user": "nobody", "film": "f2"}, {"user": "u3", "film": "none"}]
    expected = learn.get_preds(learn.dls.test_dl(pairs))[0]
    found = torch.stack([p.output for p in Predictor(tmp_path / "model").predict_many(pairs)])
    torch.testing.assert_close(found, expected)
    again = load_learner(tmp_path / "model")
    assert isinstance(again, CollabLearner)
    assert again.recommend("u1", 3) == learn.recommend("u1", 3, exclude_seen=False)  # an export has no rows
    with pytest.raises(
        ConfigError, match="exclude_seen=True needs the training rows, which a loaded Learner has not; give"
    ):
        again.recommend("u1", 3, exclude_seen=True)
    assert recommender.similar("f2", 3) == again.similar("f2", 3) == learn.similar("f2", 3)
    label, *_ = again.predict(pairs[0])
    assert label == pytest.approx(expected[0].item())
    assert recommender.scores("u3", ["f2"]).item() == pytest.approx(expected[0].item())


def test_ratings_may_be_a_dict_of_columns_and_rows_for_validation_a_set() -> None:
    frame = ratings(60)
    columns = {name: frame[name].tolist() for name in frame}
    dls = CollabDataLoaders.from_df(columns, valid_idx={3, 5}, bs=8)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (58, 2)


def test_items_that_the_same_users_like_are_similar() -> None:
    learn = ratings_learner()
    learn.fit_one_cycle(12, 0.05)
    nearest = learn.similar("f4", 6)
    assert sum(int(name[1:]) % 2 == 0 for name, _ in nearest) >= 5
    names = [name for name in learn.recommender.items[1:] if name != "f4"]
    cosines = torch.cosine_similarity(learn.weight(names), learn.weight(["f4"]), dim=1)
    best = cosines.argsort(descending=True)[:6]
    assert [name for name, _ in nearest] == [names[i] for i in best.tolist()]
    assert [cosine for _, cosine in nearest] == pytest.approx(cosines[best].tolist())
    assert len(learn.similar("f4", 1000)) == 29
    assert {name[0] for name, _ in learn.similar("u1", 3, is_item=False)} == {"u"}
    with pytest.raises(DataError, match="item 'f44' is none of the 30 of the training rows"):
        learn.similar("f44")
    with pytest.raises(ConfigError, match=r"similar\(n=0\): expected a whole number of items, at least 1"):
        learn.similar("f4", 0)


def test_unknown_users_are_average_ones() -> None:
    model = ratings_learner().model.eval()
    with torch.no_grad():
        model.i_weight.weight.normal_()
        model.u_weight.weight.normal_()
        rating = model(TabularRow(torch.tensor([[0, 3]]), torch.empty(1, 0)))
        model.u_weight.weight[0] = model.u_weight.weight[1:].mean(0)
        model.u_bias.weight[0] = model.u_bias.weight[1:].mean(0)
        model.train()
        torch.testing.assert_close(rating, model(TabularRow(torch.tensor([[0, 3]]), torch.empty(1, 0))))


def test_a_name_of_another_type_is_the_one_that_reads_alike() -> None:
    ratings = pd.DataFrame({"user": [1, 2, 3] * 8, "film": list("abcdefgh") * 3, "rating": [1.0, 2.0, 3.0] * 8})

    def learner(**columns: Any) -> CollabLearner:
        dls = CollabDataLoaders.from_df(ratings.assign(**columns), bs=8, num_workers=0)
        learn = collab_learner(dls, n_factors=4, run_dir=None, progress=False)
        learn.fit(1, 0.1)
        return learn

    learn = learner()
    assert learn.recommend(77, 2) == learn.recommend("78", 2) == learn.recommend("3.5", 2)  # unknown ones
    known = learn.recommend(3, 2, exclude_seen=False)
    for user in ("3", 3.0, np.int64(3), np.float32(3), torch.tensor(3), np.array(3)):
        assert learn.recommend(user, 2, exclude_seen=False) == known != learn.recommend(77, 2)
    assert torch.equal(learn.weight(["3", 1.0], is_item=False), learn.weight(torch.tensor([3, 1]), is_item=False))
    learn = learner(user=ratings["user"].astype(str), film=ratings["film"].map(ord))
    assert learn.recommend(3, 2) == learn.recommend(3.0, 2) == learn.recommend("3", 2) != learn.recommend("03", 2)
    recommender = learn.recommender
    for exclude in (["97", 98, 4], np.array([97, 98, 4]), torch.tensor([97, 98, 4])):
        assert len(recommender.recommend("3", exclude=exclude)) == 6  # 4 is none
    assert recommender.recommend("3", exclude=None) == recommender.recommend("3")
    with pytest.raises(DataError, match=r"'97' is one name, and a list of them is expected: \['97'\]"):
        recommender.recommend("3", exclude="97")
    with pytest.raises(DataError, match=r"\[97\] is no item, but a list; ask for one item at a time"):
        recommender.recommend("3", exclude=[[97]])
    learn = learner(user=[True, False] * 12)
    assert learn.recommend("True", 2) == learn.recommend(np.bool_(True), 2) == learn.recommend(True, 2)
    learn = learner(user=ratings["user"] + 0.5)
    assert torch.equal(learn.weight(["1.5"], is_item=False), learn.weight([1.5], is_item=False))


def test_scores_that_are_no_numbers_are_recommended_last() -> None:
    learn = ratings_learner()
    with torch.no_grad():
        learn.model.i_bias.weight[learn.recommender.codes(["f7", "f8"])] = torch.nan
    best = learn.recommender.recommend("u1", 29, exclude=["f8", "f9"])
    assert len(best) == 28
    assert best[-1][0] == "f7"
    assert np.isnan(best[-1][1])
    assert not np.isnan([score for _, score in best[:-1]]).any()


def test_biases_and_factors_are_looked_up_by_name() -> None:
    learn = ratings_learner()
    learn.fit_one_cycle(5, 0.05)
    assert set(learn.dls.classes) == {"user", "film"}
    assert "f4" in learn.dls.classes["film"]
    assert learn.bias(["f4", "f5"]).shape == (2,)
    assert learn.bias(["f4"]) > learn.bias(["f5"])  # 4 is rated 0.8 higher than 0
    assert learn.weight(["u1"], is_item=False).shape == (1, 8)
    with pytest.raises(ConfigError, match="n_factors=-1: expected a whole number of factors, at least 1"):
        ratings_learner(n_factors=-1)
    with pytest.raises(DataError, match=r"item 'f44' is none of the 30 of the training rows; did you mean"):
        learn.weight(["f44"])
    with pytest.raises(ConfigError, match="EmbeddingNN has no biases"):
        ratings_learner(use_nn=True).bias(["f4"])
    for n in (0, 2.5, True, "3"):
        with pytest.raises(ConfigError, match=rf"recommend\(n={n!r}\): expected a whole number of items, at least 1"):
            learn.recommend("u1", n)
    with pytest.raises(DataError, match=r"5 is one name, and a list of them is expected: \[5\]"):
        learn.weight(5)
    with pytest.raises(DataError, match=r"\['f4'\] is no item, but a list; ask for one item at a time"):
        learn.weight([["f4"]])
    with pytest.raises(DataError, match=r"\['u1', 'u2'\] is no user, but a list; ask for one user at a time"):
        learn.recommend(["u1", "u2"])
    with pytest.raises(DataError, match=r"'f4' is one name, and a list of them is expected: \['f4'\]"):
        learn.bias("f4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, "layers is for the model with hidden layers; give use_nn=True"),
        ({"use_nn": True, "sparse": True}, "sparse=True is for the dot product"),
        ({"y_range": (5, 1)}, "expected the lower end first"),
        ({"y_range": ("a", 5)}, r"y_range=\('a', 5\): expected two numbers"),
        ({"y_range": 5}, r"y_range=5: expected two numbers, \(low, high\)"),
        ({"use_nn": True, "emb_szs": {"usr": 3}}, "emb_szs names 'usr', and the columns are user and film"),
        ({"use_nn": True, "layers": [-1]}, r"layers=\[-1\]: expected sizes"),
        ({"use_nn": True, "layers": 50}, r"layers=50: expected sizes, whole numbers of at least 1"),
        ({"use_nn": True, "config": {"pss": 0.1}}, r"config=\{'pss': 0.1\}: .*'pss'.*; see EmbeddingNN for its"),
        ({"use_nn": True, "config": [0.1]}, r"config=\[0.1\]: expected a dict by name, such as \{\"ps\": 0.1\}"),
        ({"use_nn": True, "emb_szs": [(3, 2)]}, r"emb_szs=\[\(3, 2\)\]: expected a dict by name, such as"),
        ({"use_nn": True, "emb_szs": {"user": 2.5}}, r"emb_szs=\{'user': 2.5\}: expected a whole number of numbers"),
        ({"n_factors": 2.5}, r"n_factors=2.5: expected a whole number of factors, at least 1"),
    ],
)
def test_what_is_wrong_with_a_learner_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ratings_learner(**options)


def test_an_export_of_something_else_is_no_recommender(tmp_path: Path) -> None:
    from tables import people_learner

    people_learner().export(tmp_path / "model")
    with pytest.raises(ConfigError, match="holds no model of users and items, but a TabularModel"):
        Recommender.load(tmp_path / "model")


# ------------------------------------------------------------------------------------------------ choices


def test_drawn_items_depend_on_seed_epoch_and_sample_alone() -> None:
    dls = CollabDataLoaders.from_df(chosen(), negatives=4, valid_negatives=10, bs=16, num_workers=0)

    def drawn(epoch: int, start: int) -> dict[tuple[int, int], list[int]]:
        batches = [row.cats for _, (row, _) in dls.train.batches(epoch, start)]
        return {(user, item): others for user, item, *others in torch.cat(batches).tolist()}

    first = drawn(0, 0)
    assert drawn(0, 0) == first
    later = drawn(0, 3)  # a run that goes on in the middle of the epoch
    assert {pair: first[pair] for pair in later} == later
    assert sum(first[pair] == others for pair, others in drawn(1, 0).items()) < 5
    row, y = next(iter(dls.valid))
    assert isinstance(y, TensorMultiCategory)
    assert y.sum(1).tolist() == [1.0] * len(y)
    assert row.cats.shape[1] == 12
    assert torch.equal(next(iter(dls.valid))[0].cats, row.cats)


def test_what_a_user_chose_is_not_drawn() -> None:
    dls = CollabDataLoaders.from_df(chosen()[:60], negatives=20, bs=512, num_workers=0, valid_pct=0.2)
    known = {tuple(pair) for pair in dls.train_ds.rows.cats.tolist()}
    row, _ = dls.one_batch()
    assert not known & {(user, other) for user, _, *others in row.cats.tolist() for other in others}
    assert (row.cats > 0).all()


def test_drawing_without_anything_to_draw_is_named() -> None:
    with pytest.raises(ConfigError, match=r"1 item\(s\): expected at least 2"):
        SampleNegatives(2)
    row = TabularRow(torch.tensor([[1, 1]]), torch.empty(1, 0))
    sampler = SampleNegatives(3, train=2)
    assert sampler((row,)) == (row,)
    batch = sampler((row, torch.ones(1)), Draw(seed=0, epoch=0, samples=[0]))
    assert sampler.decode(batch)[0].cats.tolist() == [[1, 1]]


def test_choices_are_ranked_and_recommended(tmp_path: Path) -> None:
    dls = CollabDataLoaders.from_df(chosen(), negatives=4, valid_negatives=15, bs=32)
    metrics = [RecallAtK(8), NDCGAtK(8), MRR()]
    learn = collab_learner(dls, 8, metrics=metrics, run_dir=None, progress=False)
    learn.fit_one_cycle(15, 0.05)
    assert learn.recorder.final[1] > 0.85  # by chance a half
    assert "chosen" in texts(learn.show_results(3))
    learn.export(tmp_path / "model")
    assert Recommender.load(tmp_path / "model").recommend("u2", 3) == learn.recommend("u2", 3, exclude_seen=False)


def test_the_model_with_hidden_layers_scores_several_items_as_one_by_one() -> None:
    model = EmbeddingNN([(5, 3), (7, 4)], [6]).eval()
    cats = torch.tensor([[1, 2, 3], [2, 0, 6]])
    several = model(TabularRow(cats, torch.empty(2, 0)))
    single = torch.stack([model(TabularRow(cats[:, [0, i]], torch.empty(2, 0))) for i in (1, 2)], 1)
    torch.testing.assert_close(several, single)


def test_an_option_that_there_is_not_is_named_with_what_was_meant() -> None:
    with pytest.raises(TypeError, match="loaders have no option 'item_nam'; did you mean 'item_name'"):
        CollabDataLoaders.from_df(ratings(), item_nam="film")
