"""Loaders of texts, made in one line; each is a `DataBlock` that is written out here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from dist_ai.data import (
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    DataLoaders,
    GrandparentSplitter,
    LoaderOptions,
    MultiCategoryBlock,
    ParquetData,
    RandomSplitter,
    RegressionBlock,
    Table,
    TransformBlock,
    as_items,
    get_text_files,
    parent_label,
)
from dist_ai.data.loaders import check_options
from dist_ai.data.splitters import Splitter
from dist_ai.data.targets import block_of_columns, block_of_lists
from dist_ai.data.transforms import EncodedMultiCategorize
from dist_ai.errors import ConfigError, DataError
from dist_ai.text.blocks import TextBlock, Vocab
from dist_ai.text.transforms import Tokenize

__all__ = ["ColumnOptions", "TextDataLoaders", "TextOptions"]


class TextOptions(LoaderOptions, total=False):
    """What all ways to make `TextDataLoaders` take, besides where the texts are.

    Attributes:
        valid_pct: share of the texts drawn at random for validation.
        seed: of that draw, of the order and of all random draws; 0 by default.
        is_lm: for a language model: windows of the texts, each token's target being the next.
        text_vocab: the vocabulary: words in the order of their ids (``dls_lm.vocab``) or a `Tokenize` (``dls_lm.tokenize``).
        seq_len: tokens in a window of a language model; 72 by default.
        backwards: read the texts from their end to their begin.
        tok_tfm: a `Tokenize` instead of the default rules and words.
        min_freq, max_vocab: of the vocabulary: how often a word comes, and how many there are; 3 and 60,000.
        max_length: longer texts are cut behind so many tokens.
        cache: a folder that keeps the tokens as Arrow files, which are mapped: for corpora larger than memory.
    """

    valid_pct: float | None
    seed: int | None
    is_lm: bool
    text_vocab: Vocab
    seq_len: int
    backwards: bool
    tok_tfm: Tokenize | None
    min_freq: int
    max_vocab: int
    max_length: int | None
    cache: str | Path | None


class ColumnOptions(TextOptions, total=False):
    """What all ways to make `TextDataLoaders` of a table take besides; `valid_pct` is 0.2 there by default.

    Attributes:
        text_col: the column of texts, by name or place, the first by default; or several, each of which is put behind a mark.
        label_col: the column of labels, the second by default; or several, with a number each, or a yes or no (1 and 0). A
            language model needs none.
        label_delim: between the labels of a text that has several.
        y_block: what the labels are; by default several labels with `label_delim` or where there are lists of words, numbers
            where there are floats, and one label otherwise.
        valid_col: a column with True for the validation texts, instead of `valid_pct`.
    """

    text_col: str | int | Sequence[str | int]
    label_col: str | int | Sequence[str | int]
    label_delim: str | None
    y_block: TransformBlock | Callable[[], TransformBlock] | None
    valid_col: str | int | None


class TextDataLoaders(DataLoaders):
    """Loaders of texts and their labels, or of the windows of a language model.

    ```python
    dls_lm = TextDataLoaders.from_df(df, text_col="text", is_lm=True)
    dls = TextDataLoaders.from_df(df, text_col="text", label_col="label", text_vocab=dls_lm.vocab)
    ```

    All ways to make them take the options of `TextOptions`, such as ``valid_pct``, ``seed`` and ``max_length``, and those of
    `LoaderOptions`: ``bs=64`` and more. Those of tables say in `ColumnOptions` what is in which column.

    A classifier's batches hold texts of similar length, the same on any number of ranks; padding stands behind them, and
    models mask it.
    """

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        train: str = "train",
        valid: str = "valid",
        vocab: Sequence[str] | None = None,
        encoding: str = "utf-8",
        **options: Unpack[TextOptions],
    ) -> Self:
        """Returns loaders of a folder of ``.txt`` files whose labels are the names of the folders they lie in.

        Args:
            path: holds ``train/pos/1.txt``, ``valid/neg/2.txt``; or, with `valid_pct`, ``pos/1.txt`` at any depth. For a
                language model the folders of classes may be missing.
            train, valid: names of the two folders.
            vocab: the classes in order; by default the sorted labels of the training texts.
            encoding: of the files.
            options: see `TextOptions`; with `valid_pct`, that share of all files is drawn, instead of the two folders.

        Raises:
            DataError: there is no such folder or file; a file is empty or has another encoding; there is one class only.
        """
        check_options(options, TextOptions)
        path, valid_pct, seed = Path(path), options.get("valid_pct"), options.get("seed", 0)
        if valid_pct is None:
            for name in (train, valid):
                _require_folder(path, name)
        files = get_text_files(path, folders=(train, valid) if valid_pct is None else ())
        splitter: Splitter = GrandparentSplitter(train, valid) if valid_pct is None else RandomSplitter(valid_pct, seed)
        if options.get("is_lm") and valid_pct is None:
            splitter = _ByFolder(path, train, valid)
        text, of_loaders = _text_block((), options, encoding=encoding)
        classes = [] if options.get("is_lm") else [CategoryBlock(vocab)]
        block = DataBlock((text, *classes), splitter=splitter, get_y=parent_label if classes else None, n_inp=1)
        return cls.from_dblock(block, files, **of_loaders)

    @classmethod
    def from_df(cls, df: Any, path: str | Path = ".", **options: Unpack[ColumnOptions]) -> Self:
        """Returns loaders of a table with a column of texts, or several, and one of labels.

        Args:
            df: a data frame, an Arrow table, a `Table`, a `ParquetData`, or a list of dicts.
            path: not used; here because fastai's has it.
            options: see `ColumnOptions`.

        Raises:
            DataError: no such column; a row without text; one class only.
        """
        check_options(options, ColumnOptions)
        rows = as_items(df)
        if not len(rows):
            raise DataError("the table has no rows: there is no text to learn from")
        text, of_loaders = _text_block((ColReader(options.get("text_col", 0)),), options)
        get_y: Any = None
        targets: list[TransformBlock | Callable[[], TransformBlock]] = []
        if not options.get("is_lm"):
            get_y = ColReader(options.get("label_col", 1), label_delim=options.get("label_delim"))
            given = options.get("y_block")
            targets = [_target_block(rows, get_y) if given is None else given]
            if given is MultiCategoryBlock and not isinstance(get_y.cols, str | int):
                # Several labels either way; of a yes or no in each column, the columns' names are the labels.
                read = _target_block(rows, get_y)
                targets = [read if any(isinstance(tfm, EncodedMultiCategorize) for tfm in read.type_tfms) else given]
        valid_col, valid_pct, seed = options.get("valid_col"), options.get("valid_pct"), options.get("seed", 0)
        drawn = RandomSplitter(0.2 if valid_pct is None else valid_pct, seed)
        block = DataBlock(
            (text, *targets),
            splitter=drawn if valid_col is None else ColSplitter(valid_col),
            get_y=get_y,
            n_inp=1,
        )
        return cls.from_dblock(block, rows, **of_loaders)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        csv_fname: str | Path = "labels.csv",
        *,
        header: bool = True,
        delimiter: str = ",",
        encoding: str = "utf-8",
        **options: Unpack[ColumnOptions],
    ) -> Self:
        """Returns loaders of a CSV file with a column of texts, or several, and one of labels.

        Args:
            path: the folder of the file.
            csv_fname: its name.
            header: whether its first line has the columns' names.
            delimiter: between its values.
            encoding: of the file.
            options: see `ColumnOptions`.

        Raises:
            DataError: as `from_df`; or the file is no table, or has another encoding.
        """
        table = Table.from_csv(Path(path, csv_fname), header=header, delimiter=delimiter, encoding=encoding)
        return cls.from_df(table, path, **options)

    @classmethod
    def from_parquet(cls, path: str | Path, **options: Unpack[ColumnOptions]) -> Self:
        """Returns loaders of Parquet files, of which a few row groups are in memory at a time.

        Args:
            path: a file, or a folder of them; see `ParquetData`.
            options: see `ColumnOptions`; with `cache` the tokens need not fit into memory either.

        Raises:
            DataError: as `from_df`; or a file is not Parquet.
        """
        return cls.from_df(ParquetData(path), path, **options)

    @property
    def tokenize(self) -> Tokenize:
        """How text becomes tokens: what `text_vocab` and `tok_tfm` of other loaders take.

        Raises:
            DataError: no input is a text.
        """
        for pipeline in self.recipe.inputs:
            for tfm in pipeline.tfms:
                if isinstance(tfm, Tokenize):
                    return tfm
        raise DataError("no input of these loaders is a text: none is tokenized")


def _text_block(
    getters: Sequence[Any], options: TextOptions | ColumnOptions, encoding: str = "utf-8"
) -> tuple[TextBlock, dict[str, Any]]:
    """Returns the block that options ask for, and those of the loaders, `seed` among them."""
    given: dict[str, Any] = dict(options)
    of_text = {name: given[name] for name in _OF_BLOCK if name in given}
    if "seq_len" in of_text and of_text["seq_len"] < 1:
        raise ConfigError(f"seq_len={of_text['seq_len']}: expected at least 1 token")
    block = TextBlock(given.get("text_vocab"), getters=getters, encoding=encoding, **of_text)
    return block, {name: given[name] for name in ("seed", *LoaderOptions.__annotations__) if name in given}


_OF_BLOCK = ("is_lm", "seq_len", "backwards", "tok_tfm", "min_freq", "max_vocab", "max_length", "cache")


def _target_block(rows: Any, get_y: ColReader) -> TransformBlock:
    first = get_y(rows[0])
    if get_y.label_delim is not None:
        return MultiCategoryBlock()
    if not isinstance(get_y.cols, str | int) and len(get_y.cols) > 1:
        return block_of_columns(map(get_y, rows), get_y.cols)
    if isinstance(first, list):
        return block_of_lists(map(get_y, rows))
    return RegressionBlock(1) if isinstance(first, float) else CategoryBlock()


class _ByFolder:
    """Splits files by which of two folders they lie in, at any depth."""

    def __init__(self, path: Path, train: str, valid: str) -> None:
        self.path, self.names = path, (train, valid)

    def __call__(self, files: Sequence[Path]) -> tuple[list[int], ...]:
        of = [file.relative_to(self.path).parts[0] for file in files]
        return tuple([i for i, each in enumerate(of) if each == name] for name in self.names)


def _require_folder(path: Path, name: str) -> None:
    if path.is_dir() and not (path / name).is_dir():
        there = ", ".join(sorted(each.name for each in path.iterdir() if each.is_dir())[:5])
        raise DataError(
            f"{path} has no folder {name!r}, but {there or 'none at all'}; name its folders with train= and valid=, or "
            "give valid_pct=0.2 to draw the validation texts at random"
        )
