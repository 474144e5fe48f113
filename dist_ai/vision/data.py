"""Loaders of images, made in one line; each is a `DataBlock` that is written out here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias, Unpack

from dist_ai.core.transform import Pipeline, Transform
from dist_ai.data import (
    AttrGetter,
    CategoryBlock,
    ColReader,
    ColSplitter,
    DataBlock,
    DataLoaders,
    GrandparentSplitter,
    LoaderOptions,
    MultiCategoryBlock,
    RandomSplitter,
    RegexLabeller,
    RegressionBlock,
    Table,
    TransformBlock,
    as_items,
    get_image_files,
    parent_label,
)
from dist_ai.data.table import missing
from dist_ai.data.transforms import in_order
from dist_ai.errors import DataError, did_you_mean
from dist_ai.vision.blocks import ImageBlock, MaskBlock

__all__ = ["ImageDataLoaders", "SegmentationDataLoaders"]

Tfms: TypeAlias = Iterable[Transform | type[Transform] | Callable[[Any], Any]] | Transform | None


class ImageDataLoaders(DataLoaders):
    """Loaders of images and their labels.

    ```python
    dls = ImageDataLoaders.from_folder("pets", valid_pct=0.2, seed=42, item_tfms=Resize(64), bs=64)
    ```

    What all ways to make them take:

    - `valid_pct`: share of the images drawn at random for validation; `seed`: of that draw, of the order and of the
      augmentations; None is 0;
    - `item_tfms`: transforms of one image, such as `Resize`; images in a batch need one size;
    - `batch_tfms`: transforms of a batch on the device, such as `aug_transforms()`;
    - `mode`: ``"RGB"`` or ``"L"`` (grey, one channel);
    - `options`: ``bs=64``, ``num_workers=``, ``bad_samples="skip"``, ``weights="balanced"`` and more; see `LoaderOptions`.

    Classes that are drawn at random are those of all images: a rare one may have none left to train on.
    """

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float | None = None,
        seed: int | None = 0,
        vocab: Sequence[str] | None = None,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of a folder of images whose labels are the names of the folders they lie in.

        Args:
            path: holds ``train/cat/1.jpg``, ``valid/dog/2.jpg``; or, with `valid_pct`, ``cat/1.jpg`` at any depth.
            train, valid: names of the two folders.
            valid_pct: share of all images drawn at random for validation, instead of the two folders.
            vocab: the classes in order; by default the sorted labels of the training images, or with `valid_pct` of
                all images.
            seed, item_tfms, batch_tfms, mode, options: see the class.

        Raises:
            DataError: there is no such folder, or no image, or only one class; or an image lies outside the folders of
                classes, or in that of a class which the training images do not have.
        """
        path = Path(path)
        if valid_pct is None:
            _require_folders(path, train, valid)
            files = get_image_files(path, folders=(train, valid))
            _require_labels(files, [path / train, path / valid], nested=False)
            trained_on = [folder for folder in _one_of_each(files) if folder.parent == path / train]
        else:
            files = get_image_files(path)
            _require_labels(files, [path], nested=True)
            trained_on = list(_one_of_each(files))
        classes = list(vocab or sorted({folder.name for folder in trained_on}))
        block = DataBlock(
            (ImageBlock(mode), CategoryBlock(classes)),
            splitter=GrandparentSplitter(train, valid) if valid_pct is None else RandomSplitter(valid_pct, seed),
            get_y=parent_label,
            item_tfms=_listed(item_tfms),
            batch_tfms=_listed(batch_tfms),
        )
        dls = cls.from_dblock(
            block,
            files,
            seed=seed,
            **options,
        )
        _require_classes(files, classes, given=bool(vocab))
        return dls

    @classmethod
    def from_path_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[Path], Any],
        *,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of image files labelled by a function of their path.

        Args:
            path: the folder that names without one lie in.
            fnames: the files, such as `get_image_files` gives them.
            label_func: from a file's path to its label.
            valid_pct, seed, item_tfms, batch_tfms, mode, options: see the class.

        Raises:
            DataError: a file has no label.
        """
        files = [Path(path, name) for name in fnames]
        block = DataBlock(
            (ImageBlock(mode), CategoryBlock(_classes([label_func(file) for file in files], files))),
            splitter=RandomSplitter(valid_pct, seed),
            get_y=label_func,
            item_tfms=_listed(item_tfms),
            batch_tfms=_listed(batch_tfms),
        )
        return cls.from_dblock(
            block,
            files,
            seed=seed,
            **options,
        )

    @classmethod
    def from_name_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[str], Any],
        *,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of image files labelled by a function of their name, without the folders; see `from_path_func`."""
        return cls.from_path_func(
            path,
            fnames,
            Pipeline([AttrGetter("name"), label_func]),
            valid_pct=valid_pct,
            seed=seed,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            mode=mode,
            **options,
        )

    @classmethod
    def from_path_re(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        pat: str,
        *,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of image files labelled by the first group of a regular expression in their path.

        Args:
            path, fnames: see `from_path_func`.
            pat: the expression; see `RegexLabeller`.
            valid_pct, seed, item_tfms, batch_tfms, mode, options: see the class.

        Raises:
            BadSampleError: a file does not fit it.
        """
        return cls.from_path_func(
            path,
            fnames,
            RegexLabeller(pat),
            valid_pct=valid_pct,
            seed=seed,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            mode=mode,
            **options,
        )

    @classmethod
    def from_name_re(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        pat: str,
        *,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of image files labelled by a regular expression in their name; see `from_path_re`."""
        return cls.from_name_func(
            path,
            fnames,
            RegexLabeller(pat),
            valid_pct=valid_pct,
            seed=seed,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            mode=mode,
            **options,
        )

    @classmethod
    def from_df(
        cls,
        df: Any,
        path: str | Path = ".",
        *,
        fn_col: str | int = 0,
        folder: str | Path = "",
        suff: str = "",
        label_col: str | int | Sequence[str | int] = 1,
        label_delim: str | None = None,
        y_block: TransformBlock | Callable[[], TransformBlock] | None = None,
        valid_col: str | int | None = None,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of a table with a column of files and one, or several, of labels.

        Args:
            df: a data frame, an Arrow table, a `Table`, or a list of dicts.
            path: the folder of the images, and `folder` in it.
            fn_col: the column of files, by name or place; `suff` is added to each: ``".jpg"``.
            label_col: the column of labels; or several, with a number each.
            label_delim: between the labels of an image that has several.
            y_block: what the labels are; by default several labels with `label_delim`, a yes or no for each of several
                columns of 0 and 1, numbers where there are floats, and one label otherwise.
            valid_col: a column with True for the validation images, instead of `valid_pct`.
            seed, item_tfms, batch_tfms, mode, options: see the class.

        Raises:
            DataError: no such column, or an image without a label.
        """
        rows = as_items(df)
        get_y = ColReader(label_col, label_delim=label_delim)
        if y_block is None:
            y_block = _block_of(
                [get_y(rows[i]) for i in range(len(rows))], rows, label_col, all_are_seen=valid_col is None
            )
        block = DataBlock(
            (ImageBlock(mode), y_block),
            splitter=RandomSplitter(valid_pct, seed) if valid_col is None else ColSplitter(valid_col),
            get_x=ColReader(fn_col, pref=Path(path, folder), suff=suff),
            get_y=get_y,
            item_tfms=_listed(item_tfms),
            batch_tfms=_listed(batch_tfms),
        )
        return cls.from_dblock(
            block,
            rows,
            seed=seed,
            **options,
        )

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        csv_fname: str | Path = "labels.csv",
        *,
        header: bool = True,
        delimiter: str = ",",
        fn_col: str | int = 0,
        folder: str | Path = "",
        suff: str = "",
        label_col: str | int | Sequence[str | int] = 1,
        label_delim: str | None = None,
        y_block: TransformBlock | Callable[[], TransformBlock] | None = None,
        valid_col: str | int | None = None,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of a CSV file with a column of files and one, or several, of labels.

        Args:
            path: the folder of the CSV file, and of the images.
            csv_fname: the CSV file's name.
            header: whether its first line has the columns' names.
            delimiter: between its values.
            fn_col, folder, suff, label_col, label_delim, y_block, valid_col: see `from_df`.
            valid_pct, seed, item_tfms, batch_tfms, mode, options: see the class.
        """
        return cls.from_df(
            Table.from_csv(Path(path, csv_fname), header=header, delimiter=delimiter),
            path,
            fn_col=fn_col,
            folder=folder,
            suff=suff,
            label_col=label_col,
            label_delim=label_delim,
            y_block=y_block,
            valid_col=valid_col,
            valid_pct=valid_pct,
            seed=seed,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            mode=mode,
            **options,
        )

    @classmethod
    def from_lists(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        labels: Sequence[Any],
        *,
        y_block: TransformBlock | Callable[[], TransformBlock] | None = None,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of a list of files and a list of their labels.

        Args:
            path: the folder that names without one lie in.
            fnames: the files.
            labels: of each file: a label, a list of labels, or a float.
            y_block: what the labels are; by default what they look like.
            valid_pct, seed, item_tfms, batch_tfms, mode, options: see the class.

        Raises:
            DataError: not as many labels as files, or one is missing.
        """
        return cls.from_df(
            Table({"file": [str(name) for name in fnames], "label": list(labels)}),
            path,
            fn_col="file",
            label_col="label",
            y_block=y_block,
            valid_pct=valid_pct,
            seed=seed,
            item_tfms=item_tfms,
            batch_tfms=batch_tfms,
            mode=mode,
            **options,
        )


class SegmentationDataLoaders(DataLoaders):
    """Loaders of images and of masks, which have the class of each pixel."""

    @classmethod
    def from_label_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[Path], Any],
        *,
        codes: Iterable[str] | None = None,
        void: int | None = None,
        valid_pct: float = 0.2,
        seed: int | None = 0,
        item_tfms: Tfms = None,
        batch_tfms: Tfms = None,
        mode: str = "RGB",
        **options: Unpack[LoaderOptions],
    ) -> Self:
        """Returns loaders of image files whose masks a function finds.

        Args:
            path: the folder that names without one lie in.
            fnames: the image files.
            label_func: from an image's path to its mask's.
            codes: the name of each class.
            void: a number beyond them that stands for no class, such as 255.
            valid_pct, seed, item_tfms, batch_tfms, mode, options: see `ImageDataLoaders`.
        """
        block = DataBlock(
            (ImageBlock(mode), MaskBlock(codes, void=void)),
            splitter=RandomSplitter(valid_pct, seed),
            get_y=label_func,
            item_tfms=_listed(item_tfms),
            batch_tfms=_listed(batch_tfms),
        )
        files = [Path(path, name) for name in fnames]
        return cls.from_dblock(
            block,
            files,
            seed=seed,
            **options,
        )


def _require_folders(path: Path, *names: str) -> None:
    for name in names:
        if path.is_dir() and not (path / name).is_dir():
            there = ", ".join(sorted(each.name for each in path.iterdir() if each.is_dir())[:5])
            raise DataError(
                f"{path} has no folder {name!r}, but {there or 'none at all'}; name its folders with train= and valid=, or "
                "give valid_pct=0.2 to draw the validation images at random"
            )


def _require_labels(files: Sequence[Path], parts: Sequence[Path], *, nested: bool) -> None:
    """Raises `DataError` if an image does not lie in a class's folder: directly in one of `parts`, or deeper."""
    for folder, file in _one_of_each(files).items():
        if folder in parts or not (nested or folder.parent in parts):
            raise DataError(
                f"{file} does not lie in the folder of a class, so it has no label; expected "
                f"{' or '.join(str(part / '<class>' / file.name) for part in parts)}. Move it, or take it away"
            )


def _require_classes(files: Sequence[Path], vocab: Sequence[str], *, given: bool) -> None:
    """Raises `DataError` for an image of a class that is not in the vocabulary, before an epoch is lost to it."""
    for folder, file in _one_of_each(files).items():
        if folder.name not in vocab:
            raise DataError(
                f"the class {folder.name!r} of {file} is not one of the {len(vocab)} classes of "
                f"{'vocab' if given else 'the training images'}{did_you_mean(folder.name, vocab)}; "
                f"add {'it there' if given else 'training images of it'}, or take its images away"
            )


def _one_of_each(files: Sequence[Path]) -> dict[Path, Path]:
    """Returns the folders that the files lie in, each with its first file."""
    found: dict[Path, Path] = {}
    for file in files:
        found.setdefault(file.parent, file)
    return found


def _classes(labels: Sequence[Any], of: Sequence[Any]) -> list[Any]:
    """Returns the classes of all items, sorted; what `Categorize` learns, though from the training items only."""
    if (lacking := next((i for i, label in enumerate(labels) if missing(label)), None)) is not None:
        raise DataError(f"no label for {of[lacking]!r:.200}; fill it, or leave it out")
    return sorted(set(labels))


def _block_of(labels: Sequence[Any], rows: Any, columns: Any, *, all_are_seen: bool) -> TransformBlock:
    """Returns the block for what labels look like."""
    several = isinstance(labels[0], list | tuple)
    numbers = [each for label in labels for each in (label if several else [label])]
    if several and not isinstance(columns, str | int):
        is_yes_or_no = all(each in (0, 1) for each in numbers)
        return (
            MultiCategoryBlock(encoded=True, vocab=map(str, columns)) if is_yes_or_no else RegressionBlock(len(columns))
        )
    if several:
        return MultiCategoryBlock(vocab=sorted(set(numbers)) if all_are_seen else None)
    if all(isinstance(each, float) for each in numbers):
        return RegressionBlock(1)
    if isinstance(rows, Table) and (ordered := in_order(rows.categories(columns), sort=True)):
        return CategoryBlock(ordered)
    return CategoryBlock(_classes(labels, rows) if all_are_seen else None)


def _listed(tfms: Tfms) -> list[Any]:
    if tfms is None:
        return []
    return [tfms] if isinstance(tfms, Transform | type) or callable(tfms) else list(tfms)
