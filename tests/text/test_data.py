"""Loaders of texts: from tables, files and folders; streams, buckets and caches; and bad input named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from pyarrow import parquet
from texts import loaders, reviews

from dist_ai.core.types import TensorCategory, TensorLMText, TensorMultiCategory, TensorRegression, TensorText, plain
from dist_ai.data import CategoryBlock, ColReader, DataBlock, MultiCategoryBlock, RandomSplitter
from dist_ai.errors import ConfigError, DataError
from dist_ai.text import SPECIALS, JoinFields, TextBlock, TextDataLoaders, Tokenize
from dist_ai.text.corpus import ArrowTokens, _fingerprint, tokenized
from dist_ai.text.rules import text_rules


def test_a_table_makes_batches_of_texts_and_labels() -> None:
    dls = loaders()
    x, y = dls.one_batch()
    assert (type(x), type(y)) == (TensorText, TensorCategory)
    assert x.shape[0] == 16
    assert dls.vocab == ["neg", "pos"]
    assert dls.tokenize.vocab[: len(SPECIALS)] == list(SPECIALS)
    texts = {row["text"]: row["label"] for row in reviews()}
    for text, label in dls.decode_batch((x, y)):
        assert texts[text] == label


def test_training_batches_hold_texts_of_similar_length_behind_the_longest() -> None:
    dls = loaders(num=400, bs=8)
    lengths = [(plain(x) != 1).sum(1) for x, _ in dls.train]
    assert lengths[0].max() == max(each.max() for each in lengths)
    assert float(np.mean([float(each.float().std()) for each in lengths[:-1]])) < 1.5
    assert sum(map(len, lengths)) == len(dls.train_ds)
    of_valid = [int((plain(x) != 1).sum(1).max()) for x, _ in dls.valid]
    assert of_valid == sorted(of_valid, reverse=True)


def test_csv_parquet_and_several_columns_give_the_same_texts(tmp_path: Path) -> None:
    frame = pd.DataFrame(reviews(20)).assign(title="A title")
    frame.to_csv(tmp_path / "labels.csv", index=False)
    parquet.write_table(pyarrow.table(frame), tmp_path / "rows.parquet")
    options: dict[str, Any] = {"bs": 4, "min_freq": 1, "num_workers": 0, "label_col": "label"}
    of_csv = TextDataLoaders.from_csv(tmp_path, text_col="text", **options)
    of_parquet = TextDataLoaders.from_parquet(tmp_path / "rows.parquet", text_col="text", **options)
    for (x, y), (x2, y2) in zip(of_csv.train, of_parquet.train, strict=True):
        assert (x.tolist(), y.tolist()) == (x2.tolist(), y2.tolist())
    both = TextDataLoaders.from_df(frame, text_col=["title", "text"], **options)
    tokens = both.tokenize.tokens(both.train_ds[0][0])
    assert tokens[:8] == ["xxbos", "xxfld", "1", "xxmaj", "a", "title", "xxfld", "2"]


def write_folder(path: Path, *parts: str) -> Path:
    for part in parts:
        for i, row in enumerate(reviews(24)):
            folder = path / part / row["label"]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.txt").write_text(row["text"])
    return path


def test_folders_of_files_are_labelled_by_their_names(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", "valid")
    options: dict[str, Any] = {"bs": 4, "min_freq": 1, "num_workers": 0}
    dls = TextDataLoaders.from_folder(tmp_path, **options)
    assert (len(dls.train_ds), len(dls.valid_ds), dls.vocab) == (24, 24, ["neg", "pos"])
    assert len(TextDataLoaders.from_folder(tmp_path, valid_pct=0.25, **options).train_ds) == 36
    lm = TextDataLoaders.from_folder(tmp_path, is_lm=True, seq_len=5, **options)
    x, y = lm.one_batch()
    assert (type(x), type(y)) == (TensorLMText, TensorLMText)
    assert x[:, 1:].tolist() == y[:, :-1].tolist()
    with pytest.raises(
        DataError, match=r"has no folder 'test', but train, valid; name its folders with train= and valid="
    ):
        TextDataLoaders.from_folder(tmp_path, valid="test", **options)


def test_a_data_block_of_texts_is_made_from_any_source(tmp_path: Path) -> None:
    block = DataBlock(
        (TextBlock.from_df("text", min_freq=1), CategoryBlock), splitter=RandomSplitter(0.2), get_y=ColReader("label")
    )
    dls = block.dataloaders(reviews(), bs=16, num_workers=0)
    assert [x.tolist() for x, _ in dls.train] == [x.tolist() for x, _ in loaders().train]
    streams = DataBlock(TextBlock.from_df("text", is_lm=True, seq_len=9, min_freq=1)).dataloaders(reviews(), bs=3)
    assert streams.one_batch()[0].shape == (3, 9)


def test_labels_may_be_several_or_numbers() -> None:
    rows = [{"text": f"a text of number {i}", "label": "a;b" if i % 2 else "b", "x": i / 2} for i in range(10)]
    several = TextDataLoaders.from_df(rows, label_delim=";", bs=4, min_freq=1, num_workers=0)
    assert type(several.one_batch()[1]) is TensorMultiCategory
    rows = [{**row, "label": row["label"].split(";")} for row in rows]
    listed = TextDataLoaders.from_df(rows, bs=4, min_freq=1, num_workers=0)
    assert (type(listed.one_batch()[1]), listed.vocab) == (TensorMultiCategory, several.vocab)
    numbers = TextDataLoaders.from_df(rows, label_col="x", bs=4, min_freq=1, num_workers=0)
    assert type(numbers.one_batch()[1]) is TensorRegression


def test_a_yes_or_no_in_each_of_several_columns_is_several_labels() -> None:
    rows = [{"text": f"a text of number {i}", "wet": i % 2, "cold": i % 3 == 0, "x": 0.5, "y": i} for i in range(12)]
    options: dict[str, Any] = {"bs": 12, "min_freq": 1, "num_workers": 0, "valid_pct": 0.1}
    for given in ({}, {"y_block": MultiCategoryBlock}):
        dls = TextDataLoaders.from_df(rows, label_col=["wet", "cold"], **options, **given)
        assert dls.vocab == ["wet", "cold"]
        assert type(dls.one_batch()[1]) is TensorMultiCategory
        targets = [part[i][1] for part in (dls.train_ds, dls.valid_ds) for i in range(len(part))]
        assert torch.stack(targets).sum(0).tolist() == [6.0, 4.0]
    numbers = TextDataLoaders.from_df(rows, label_col=["x", "y"], **options)
    assert type(numbers.one_batch()[1]) is TensorRegression
    genres = [{**row, "first": "wet", "second": "cold" if row["wet"] else "wet"} for row in rows]
    words = TextDataLoaders.from_df(genres, label_col=["first", "second"], **options)
    assert (type(words.one_batch()[1]), list(words.vocab)) == (TensorMultiCategory, ["cold", "wet"])
    numbered = [{**row, "a": row["y"] % 4, "b": row["y"] // 3} for row in rows]
    classes = TextDataLoaders.from_df(numbered, label_col=["a", "b"], y_block=MultiCategoryBlock, **options)
    assert (type(classes.one_batch()[1]), list(classes.vocab)) == (TensorMultiCategory, [0, 1, 2, 3])


def test_the_vocabulary_of_a_language_model_is_taken_over() -> None:
    lm = loaders(is_lm=True, bs=4)
    assert f"tokens: {len(lm.vocab)}" in repr(lm)
    assert "classes" not in repr(lm)
    for vocab in (lm.vocab, lm.tokenize):
        dls = loaders(num=10, bs=4, text_vocab=vocab)
        assert dls.tokenize.vocab == lm.vocab
        assert type(dls.one_batch()[0]) is TensorText
    with pytest.raises(ConfigError, match="vocab beside tok_tfm: a Tokenize has its vocabulary; give one of them"):
        loaders(text_vocab=lm.vocab, tok_tfm=lm.tokenize)


def test_backwards_texts_end_where_they_begin() -> None:
    there, back = loaders(), loaders(backwards=True)
    x, y = there.train_ds[0][0], back.train_ds[0][0]
    assert x.tolist() == y.flip(0).tolist()
    assert there.tokenize.decode(x) == back.tokenize.decode(y)


def test_a_cached_corpus_is_mapped_and_made_once(tmp_path: Path) -> None:
    plain_streams, cached = (loaders(is_lm=True, bs=4, cache=each) for each in (None, tmp_path))
    for (x, y), (x2, y2) in zip(plain_streams.train, cached.train, strict=True):
        assert (x.tolist(), y.tolist()) == (x2.tolist(), y2.tolist())
    files = sorted(tmp_path.rglob("*.arrow"))
    times = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 2  # training and validation
    assert isinstance(cached.train.dataset.streams.tokens, ArrowTokens)
    loaders(is_lm=True, bs=4, cache=tmp_path)
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*.arrow"))] == times
    loaders(is_lm=True, bs=4, cache=tmp_path, max_vocab=20)
    assert len(list(tmp_path.rglob("*.arrow"))) == 4


RULE = """
import re
from functools import partial

MARK = re.compile("a" * 300 + "|{mark}")
KEPT = {{"x", "y", "z"}}

def cut(text, at):
    return MARK.sub("{by}", text)[:at] if text not in {{"p", "q", "r"}} else text

def made(at):
    return lambda text: cut(text, {at})

class Cut:
    def __init__(self, at):
        self.at = at

    def __call__(self, text):
        return cut(text, self.at){more}

rules = [made(9), partial(cut, at={at}), Cut({at})]
"""


def test_tokens_kept_by_another_rule_of_the_same_name_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(text_rules._things, "cut", str)
    tokenize = Tokenize(rules=["cut"])
    tokenize.setup(["a text of words", "a text of words", "a text of words"])

    def keys(**changed: Any) -> list[str]:
        program = {"__name__": "program"}
        exec(RULE.format(**{"mark": "b", "by": "c", "at": 10, "more": "", **changed}), program)
        found = []
        for rule in program["rules"]:
            monkeypatch.setitem(text_rules._things, "cut", rule)
            found.append(_fingerprint(tokenize, ["a text"])[0])
        return found

    plain = keys()
    assert plain == keys()
    for changed in ({"mark": "d"}, {"by": "d"}, {"at": 11}):
        assert not set(plain) & set(keys(**changed))
    assert plain[2] != keys(more=".lower()")[2]
    before = _fingerprint(Tokenize(tokenizer=tokenize.tokenizer, rules=["lowercase"]), ["a text"])
    monkeypatch.setattr("dist_ai.text.rules.VERSION", 0)
    assert before != _fingerprint(Tokenize(tokenizer=tokenize.tokenizer, rules=["lowercase"]), ["a text"])


def test_what_a_rule_does_has_one_name_in_all_processes() -> None:
    program = "from dist_ai.text.rules import told_of\n" + RULE.format(mark="b", by="c", at=10, more="")
    program += "\nprint([told_of(rule) for rule in rules])"
    told = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1


def test_a_corpus_of_many_record_batches_reads_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_ai.text.corpus._PART_BYTES", 200)
    tokenize = Tokenize(min_freq=1)
    texts = [row["text"] for row in reviews()]
    tokenize.setup(texts)
    wanted, lengths = tokenized(tokenize, texts)
    tokens, of_cache = tokenized(tokenize, texts, cache=tmp_path)
    assert isinstance(tokens, ArrowTokens)
    assert tokens.dtype == np.uint16
    assert len(tokens._parts) > 10
    assert (tokens[0 : len(tokens)] == wanted).all()
    assert (tokens[33:77].tolist(), len(tokens[5:5])) == (wanted[33:77].tolist(), 0)
    assert (of_cache == lengths).all()


def test_processes_tokenize_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dist_ai.text.corpus._PART_BYTES", 500)
    tokenize = Tokenize(min_freq=1)
    texts = [row["text"] for row in reviews()]
    tokenize.setup(texts)
    tokens, _ = tokenized(tokenize, texts, cache=tmp_path, num_workers=2)
    assert (tokens[0 : len(tokens)] == tokenized(tokenize, texts)[0]).all()


# As long as it is, no line of it stands under `if __name__ == "__main__":`.
WITHOUT_GUARD = """
import sys
from dist_ai.text import TextDataLoaders, Tokenize, corpus, text_rules

corpus._MANY_BYTES, corpus._PART_BYTES = 1000, 300

@text_rules.register("of_the_program")
def of_the_program(text):
    return text.replace("film", "picture")

rows = [{"text": f"a film of {i} words and a film"} for i in range(200)]
tokenize = Tokenize(min_freq=1, rules=["of_the_program", "lowercase"])
dls = TextDataLoaders.from_df(rows, is_lm=True, bs=4, seq_len=8, tok_tfm=tokenize, cache=sys.argv[1], num_workers=0)
print("read", len(dls.train), "picture" in dls.tokenize.decode(dls.one_batch()[0][0]))
"""


def run_without_guard(folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(WITHOUT_GUARD)
    command = [sys.executable, *before, str(program), str(folder / "cache")]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=folder, check=False)


def test_a_program_without_a_guard_tokenizes_on_all_cores_and_runs_once(tmp_path: Path) -> None:
    done = run_without_guard(tmp_path)
    assert (done.returncode, done.stdout) == (0, "read 45 True\n"), done.stderr


@pytest.mark.slow
def test_ranks_of_a_launch_tokenize_on_all_cores(tmp_path: Path) -> None:
    done = run_without_guard(tmp_path, "-m", "dist_ai.cli.main", "launch", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "read 45 True\n" in done.stdout


@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_a_damaged_cache_is_written_anew(tmp_path: Path, damage: str) -> None:
    tokenize = Tokenize(min_freq=1)
    texts = [row["text"] for row in reviews()]
    tokenize.setup(texts)
    wanted = tokenized(tokenize, texts)[0]
    tokenized(tokenize, texts, cache=tmp_path)
    [file] = tmp_path.rglob("*.arrow")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage == "cut" else b"")
    assert (tokenized(tokenize, texts, cache=tmp_path)[0][: len(wanted)] == wanted).all()
    assert [*tmp_path.rglob("*.arrow")] == [file]
    assert (ArrowTokens(file)[: len(wanted)] == wanted).all()


def test_a_stream_of_a_mapped_corpus_is_shuffled_by_document(tmp_path: Path) -> None:
    dls = loaders(is_lm=True, bs=4, cache=tmp_path, seq_len=11)
    first, second = ([plain(batch[0]).tolist() for _, batch in dls.train.batches(epoch)] for epoch in (0, 1))
    assert first != second
    assert [len(rows) for rows in first] == [4] * len(dls.train)


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": None}, r"training item \d+: the text is missing; expected a string|validation item"),
        ({"text": "   "}, "the text is empty; fill it, or leave such rows out"),
        ({"text": 7}, r"the text is a int \(7\); expected a string"),
    ],
)
@pytest.mark.parametrize("place", [3, 7])
def test_a_text_that_is_none_is_named_when_loaders_are_made(change: dict[str, Any], says: str, place: int) -> None:
    rows = [*reviews(20)]
    rows[place] = {**rows[place], **change}
    with pytest.raises(DataError, match=says):
        TextDataLoaders.from_df(rows, text_col="text", label_col="label", bs=4, min_freq=1, num_workers=0)


def test_a_field_may_be_empty_or_missing_and_not_all_of_them() -> None:
    rows: list[dict[str, Any]] = [{"title": f"title {i}", "body": f"a body {i}", "label": i % 2} for i in range(10)]
    rows[3]["title"], rows[4]["body"], rows[5]["title"] = "", None, float("nan")
    options: dict[str, Any] = {"text_col": ["title", "body"], "label_col": "label", "bs": 4, "min_freq": 1}
    dls = TextDataLoaders.from_df(rows, **options, num_workers=0)
    texts = {dls.tokenize.decode(x) for part in (dls.train_ds, dls.valid_ds) for x, _ in part}
    assert {"xxfld 1 xxfld 2 a body 3", "xxfld 1 title 4 xxfld 2", "xxfld 1 xxfld 2 a body 5"} < texts
    assert JoinFields(mark=False)(["", "a body"]) == "a body"
    rows[3]["body"] = " "
    says = r"training item \d+.*: the text is empty in all of its 2 fields; fill one, or leave such rows out|validation item"
    with pytest.raises(DataError, match=says):
        TextDataLoaders.from_df(rows, **options, num_workers=0)
    rows[3]["body"] = 7
    with pytest.raises(DataError, match=r"the text is a int \(7\); expected a string"):
        TextDataLoaders.from_df(rows, **options, num_workers=0)


def test_one_class_an_unknown_option_and_a_missing_column_are_named() -> None:
    rows = [{"text": "a film", "label": "x"}] * 10
    with pytest.raises(DataError, match=r"one class only \('x'\); a classifier needs at least 2"):
        TextDataLoaders.from_df(rows, text_col="text", label_col="label", min_freq=1)
    with pytest.raises(TypeError, match="loaders have no option 'seq_length'; did you mean 'seq_len'"):
        loaders(seq_length=4)
    with pytest.raises(DataError, match="training item 0: no column 'txt'; there are text, label; did you mean 'text'"):
        loaders(text_col="txt")
    with pytest.raises(ConfigError, match="seq_len=0: expected at least 1 token"):
        loaders(is_lm=True, seq_len=0)
    with pytest.raises(DataError, match="tokens make no 5000 streams: at least 5001 are needed; use a smaller bs"):
        loaders(is_lm=True, bs=5000)


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, "train", "valid")
    bad = tmp_path / "train" / "pos" / "1.txt"
    bad.write_bytes("ein schöner Film".encode("latin-1"))
    options: dict[str, Any] = {"bs": 4, "min_freq": 1, "num_workers": 0}
    with pytest.raises(DataError, match=r"1\.txt is not encoded in utf-8 \(byte 7 is 0xf6\); give encoding='latin-1'"):
        TextDataLoaders.from_folder(tmp_path, **options)
    bad.write_bytes("ein schöner Film".encode("utf-16"))
    with pytest.raises(DataError, match=r"\(byte 0 is 0xff\); give encoding='utf-16', which it begins like"):
        TextDataLoaders.from_folder(tmp_path, **options)
    bad.write_bytes("ein schöner Film".encode("latin-1"))
    dls = TextDataLoaders.from_folder(tmp_path, encoding="latin-1", **options)
    assert "schöner" in dls.tokenize.vocab
    with pytest.raises(ConfigError, match="encoding='nonsense': there is no such encoding"):
        TextDataLoaders.from_folder(tmp_path, encoding="nonsense", **options)


@pytest.mark.slow
def test_a_corpus_of_gigabytes_streams_in_little_memory(tmp_path: Path) -> None:
    """Tokenizes 300 MB in parts and reads all windows of it; what a process holds does not grow with the corpus."""
    import psutil

    class Long:
        """Texts that are made when they are read."""

        def __init__(self, num: int) -> None:
            self.num = num

        def __iter__(self) -> Any:
            text = " ".join(row["text"] for row in reviews()) * 20
            return (f"{i} {text}" for i in range(self.num))

    tokenize = Tokenize(min_freq=1)
    tokenize.setup([row["text"] for row in reviews()])
    tokenized(tokenize, Long(20), cache=tmp_path)
    before = psutil.Process().memory_full_info().uss
    begin = time.monotonic()
    tokens, lengths = tokenized(tokenize, Long(3000), cache=tmp_path)
    assert lengths.sum() > 20_000_000
    from dist_ai.data import DataLoader, TokenStreams

    for x, _ in DataLoader(TokenStreams(tokens, lengths, bs=256, seq_len=512), bs=256, shuffle=True):
        assert x.dtype == torch.int64
    assert psutil.Process().memory_full_info().uss - before < 200 * 2**20
    assert time.monotonic() - begin < 600


def test_no_rows_and_a_tokenizer_that_is_none_are_named() -> None:
    with pytest.raises(DataError, match="the table has no rows: there is no text to learn from"):
        TextDataLoaders.from_df(pd.DataFrame({"text": [], "label": []}))
    with pytest.raises(ConfigError, match=r"tok_tfm='bpe': expected a Tokenize, such as Tokenize\('bpe'\)"):
        loaders(tok_tfm="bpe")
