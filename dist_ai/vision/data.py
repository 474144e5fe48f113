"""Loaders of images, made in one line; each is a `DataBlock` that is written out here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar, Unpack

from dist_ai.core.names import known_arguments
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
from dist_ai.data.splitters import Splitter
from dist_ai.data.table import missing
from dist_ai.data.targets import block_of_columns
from dist_ai.data.transforms import in_order
from dist_ai.errors import DataError
from dist_ai.vision.annotations import boxes_of_table, get_annotations
from dist_ai.vision.blocks import BBoxBlock, BBoxLblBlock, ImageBlock, MaskBlock, PointBlock
from dist_ai.vision.folders import one_of_each, require_classes, require_folders, require_labels

__all__ = [
    "DetectionDataLoaders",
    "ImageDataLoaders",
    "ImageOptions",
    "PointDataLoaders",
    "SegmentationDataLoaders",
]

Tfms: TypeAlias = Iterable[Transform | type[Transform] | Callable[[Any], Any]] | Transform | None
Labels: TypeAlias = TransformBlock | Callable[[], TransformBlock] | None
L = TypeVar("L", bound=DataLoaders)


class ImageOptions(LoaderOptions, total=False):
    """What all ways to make loaders of images take; beside these, what all loaders take: see `LoaderOptions`.

    Attributes:
        valid_pct: share of the images drawn at random for validation; 0.2 by default.
        seed: of that draw, of the order and of the augmentations; None is 0.
        item_tfms: transforms of one image, such as `Resize`; images in a batch need one size.
        batch_tfms: transforms of a batch on the device, such as `aug_transforms()`.
        mode: ``"RGB"``, the default, or ``"L"`` (grey, one channel).
    """

    valid_pct: float | None
    seed: int | None
    item_tfms: Tfms
    batch_tfms: Tfms
    mode: str


def _loaders(
    kind: type[L],
    source: Any,
    targets: Sequence[Labels],
    options: ImageOptions,
    *,
    splitter: Splitter | None = None,
    get_x: Any = None,
    get_y: Any = None,
) -> L:
    """Returns loaders of images and their targets: what all the ways below come to."""
    rest: dict[str, Any] = dict(options)
    seed, valid_pct = rest.pop("seed", 0), rest.pop("valid_pct", None)
    block = DataBlock(
        (ImageBlock(rest.pop("mode", "RGB")), *targets),
        splitter=splitter or RandomSplitter(0.2 if valid_pct is None else valid_pct, seed),
        get_x=get_x,
        get_y=get_y,
        n_inp=1,
        item_tfms=_listed(rest.pop("item_tfms", None)),
        batch_tfms=_listed(rest.pop("batch_tfms", None)),
    )
    return kind.from_dblock(block, source, seed=seed, **rest)


class ImageDataLoaders(DataLoaders):
    """Loaders of images and their labels.

    ```python
    dls = ImageDataLoaders.from_folder("pets", valid_pct=0.2, seed=42, item_tfms=Resize(64), bs=64)
    ```

    All ways to make them take the options of `ImageOptions`: ``valid_pct``, ``seed``, ``item_tfms``, ``batch_tfms``, ``mode``,
    ``bs=64``, ``num_workers=``, ``bad_samples="skip"``, ``weights="balanced"`` and more.

    Classes that are drawn at random are those of all images: a rare one may have none left to train on.
    """

    @classmethod
    @known_arguments(ImageOptions)
    def from_folder(
        cls,
        path: str | Path,
        *,
        train: str = "train",
        valid: str = "valid",
        vocab: Sequence[str] | None = None,
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of a folder of images whose labels are the names of the folders they lie in.

        Args:
            path: holds ``train/cat/1.jpg``, ``valid/dog/2.jpg``; or, with `valid_pct`, ``cat/1.jpg`` at any depth.
            train, valid: names of the two folders.
            vocab: the classes in order; by default the sorted labels of the training images, or with `valid_pct` of
                all images.
            options: see `ImageOptions`; with `valid_pct`, that share of all images is drawn at random for validation,
                instead of the two folders.

        Raises:
            DataError: there is no such folder, or no image, or only one class; or an image lies outside the folders of
                classes, or in that of a class which the training images do not have.
        """
        path = Path(path)
        in_two = options.get("valid_pct") is None
        if in_two:
            require_folders(path, train, valid)
            files = get_image_files(path, folders=(train, valid))
            require_labels(files, [path / train, path / valid], nested=False)
            trained_on = [folder for folder in one_of_each(files) if folder.parent == path / train]
        else:
            files = get_image_files(path)
            require_labels(files, [path], nested=True)
            trained_on = list(one_of_each(files))
        classes = list(vocab or sorted({folder.name for folder in trained_on}))
        splitter = GrandparentSplitter(train, valid) if in_two else None
        dls = _loaders(cls, files, [CategoryBlock(classes)], options, splitter=splitter, get_y=parent_label)
        require_classes(files, classes, given=bool(vocab))
        return dls

    @classmethod
    @known_arguments(ImageOptions)
    def from_path_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[Path], Any],
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of image files labelled by a function of their path.

        Args:
            path: the folder of the files, for names that do not begin with it.
            fnames: the files, such as `get_image_files` gives them.
            label_func: from a file's path to its label.
            options: see `ImageOptions`.

        Raises:
            DataError: a file has no label.
        """
        files = _files(path, fnames)
        classes = CategoryBlock(_classes([label_func(file) for file in files], files))
        return _loaders(cls, files, [classes], options, get_y=label_func)

    @classmethod
    @known_arguments(ImageOptions)
    def from_name_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[str], Any],
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of image files labelled by a function of their name, without the folders; see `from_path_func`."""
        return cls.from_path_func(path, fnames, Pipeline([AttrGetter("name"), label_func]), **options)

    @classmethod
    @known_arguments(ImageOptions)
    def from_path_re(
        cls, path: str | Path, fnames: Sequence[str | Path], pat: str, **options: Unpack[ImageOptions]
    ) -> Self:
        """Returns loaders of image files labelled by the first group of a regular expression in their path.

        Args:
            path, fnames: see `from_path_func`.
            pat: the expression; see `RegexLabeller`.
            options: see `ImageOptions`.

        Raises:
            BadSampleError: a file does not fit it.
        """
        return cls.from_path_func(path, fnames, RegexLabeller(pat), **options)

    @classmethod
    @known_arguments(ImageOptions)
    def from_name_re(
        cls, path: str | Path, fnames: Sequence[str | Path], pat: str, **options: Unpack[ImageOptions]
    ) -> Self:
        """Returns loaders of image files labelled by a regular expression in their name; see `from_path_re`."""
        return cls.from_name_func(path, fnames, RegexLabeller(pat), **options)

    @classmethod
    @known_arguments(ImageOptions)
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
        y_block: Labels = None,
        valid_col: str | int | None = None,
        **options: Unpack[ImageOptions],
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
            options: see `ImageOptions`.

        Raises:
            DataError: no such column, or an image without a label.
        """
        rows = as_items(df)
        get_y = ColReader(label_col, label_delim=label_delim)
        if y_block is None:
            labels = [get_y(rows[i]) for i in range(len(rows))]
            y_block = _block_of(labels, rows, label_col, all_are_seen=valid_col is None)
        get_x = ColReader(fn_col, pref=Path(path, folder), suff=suff)
        splitter = None if valid_col is None else ColSplitter(valid_col)
        return _loaders(cls, rows, [y_block], options, splitter=splitter, get_x=get_x, get_y=get_y)

    @classmethod
    @known_arguments(ImageOptions)
    def from_csv(
        cls,
        path: str | Path,
        csv_fname: str | Path = "labels.csv",
        *,
        header: bool = True,
        delimiter: str = ",",
        encoding: str = "utf-8",
        fn_col: str | int = 0,
        folder: str | Path = "",
        suff: str = "",
        label_col: str | int | Sequence[str | int] = 1,
        label_delim: str | None = None,
        y_block: Labels = None,
        valid_col: str | int | None = None,
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of a CSV file with a column of files and one, or several, of labels.

        Args:
            path: the folder of the CSV file, and of the images.
            csv_fname: the CSV file's name.
            header: whether its first line has the columns' names.
            delimiter: between its values.
            encoding: of the file.
            fn_col, folder, suff, label_col, label_delim, y_block, valid_col: see `from_df`.
            options: see `ImageOptions`.
        """
        return cls.from_df(
            Table.from_csv(Path(path, csv_fname), header=header, delimiter=delimiter, encoding=encoding),
            path,
            fn_col=fn_col,
            folder=folder,
            suff=suff,
            label_col=label_col,
            label_delim=label_delim,
            y_block=y_block,
            valid_col=valid_col,
            **options,
        )

    @classmethod
    @known_arguments(ImageOptions)
    def from_lists(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        labels: Sequence[Any],
        *,
        y_block: Labels = None,
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of a list of files and a list of their labels.

        Args:
            path: the folder of the files, for names that do not begin with it.
            fnames: the files.
            labels: of each file: a label, a list of labels, or a float.
            y_block: what the labels are; by default what they look like.
            options: see `ImageOptions`.

        Raises:
            DataError: not as many labels as files, or one is missing.
        """
        table = Table({"file": [str(_within(path, name)) for name in fnames], "label": list(labels)})
        return cls.from_df(table, path, fn_col="file", label_col="label", y_block=y_block, **options)


class SegmentationDataLoaders(DataLoaders):
    """Loaders of images and of masks, which have the class of each pixel."""

    @classmethod
    @known_arguments(ImageOptions)
    def from_label_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[Path], Any],
        *,
        codes: Iterable[str] | None = None,
        void: int | None = None,
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of image files whose masks a function finds.

        Args:
            path: the folder of the files, for names that do not begin with it.
            fnames: the image files.
            label_func: from an image's path to its mask's, or to the mask.
            codes: the name of each class.
            void: a number beyond them that stands for no class, such as 255.
            options: see `ImageOptions`.
        """
        return _loaders(cls, _files(path, fnames), [MaskBlock(codes, void=void)], options, get_y=label_func)


class PointDataLoaders(DataLoaders):
    """Loaders of images and of points in them, such as where the nose is; a model predicts their coordinates."""

    @classmethod
    @known_arguments(ImageOptions)
    def from_label_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[Path], Any],
        *,
        n: int | None = None,
        y_first: bool = False,
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of image files whose points a function finds.

        Args:
            path: the folder of the files, for names that do not begin with it.
            fnames: the image files.
            label_func: from an image's path to its points, (x, y) each, in its pixels.
            n: how many points an image has; by default as many as the first one.
            y_first: the points are given as (y, x).
            options: see `ImageOptions`.
        """
        return _loaders(cls, _files(path, fnames), [PointBlock(n, y_first=y_first)], options, get_y=label_func)


class DetectionDataLoaders(DataLoaders):
    """Loaders of images, of the boxes in them and of what is in each box; see `dist_ai.vision.boxes`.

    ```python
    dls = DetectionDataLoaders.from_coco("images", "train.json", item_tfms=Resize(512, "pad"), bs=8)
    ```
    """

    @classmethod
    @known_arguments(ImageOptions)
    def from_label_func(
        cls,
        path: str | Path,
        fnames: Sequence[str | Path],
        label_func: Callable[[Path], tuple[Any, Any]],
        *,
        vocab: Sequence[str] | None = None,
        format: str = "xyxy",
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of image files whose boxes a function finds.

        Args:
            path: the folder of the files, for names that do not begin with it.
            fnames: the image files.
            label_func: from an image's path to (boxes, labels), such as `read_voc` makes of an XML file.
            vocab: the classes in order; by default the sorted labels of the training images.
            format: of the boxes: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``; see `ToBoxes`.
            options: see `ImageOptions`.
        """
        targets = [BBoxBlock(format), BBoxLblBlock(vocab)]
        get_y = [_Part(label_func, i) for i in (0, 1)]
        return _loaders(cls, _files(path, fnames), targets, options, get_y=get_y)

    @classmethod
    @known_arguments(ImageOptions)
    def from_coco(
        cls,
        path: str | Path,
        annotations: str | Path,
        *,
        vocab: Sequence[str] | None = None,
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of the images that a COCO JSON file annotates, those without a box too; see `get_annotations`.

        Args:
            path: the folder of the images.
            annotations: the JSON file.
            vocab: the classes in order; by default the sorted names of all annotations.
            options: see `ImageOptions`.
        """
        names, boxes = get_annotations(annotations)
        return cls._of_dict(path, dict(zip(names, boxes, strict=True)), vocab, options)

    @classmethod
    @known_arguments(ImageOptions)
    def from_df(
        cls,
        df: Any,
        path: str | Path = ".",
        *,
        fn_col: str = "image_path",
        box_cols: Sequence[str] = ("xmin", "ymin", "xmax", "ymax"),
        label_col: str = "label",
        vocab: Sequence[str] | None = None,
        **options: Unpack[ImageOptions],
    ) -> Self:
        """Returns loaders of a table with a row for each box.

        Args:
            df: a data frame, an Arrow table, a `Table`, or a list of dicts.
            path: the folder of the images.
            fn_col, label_col: the columns of the image files and of the labels.
            box_cols: those of left, top, right and bottom; missing numbers stand for an image without a box.
            vocab: the classes in order; by default the sorted labels of all rows.
            options: see `ImageOptions`.
        """
        return cls._of_dict(path, boxes_of_table(as_items(df), fn_col, box_cols, label_col), vocab, options)

    @classmethod
    def _of_dict(
        cls, path: str | Path, boxes: dict[str, tuple[Any, Any]], vocab: Sequence[str] | None, options: ImageOptions
    ) -> Self:
        of_file = {Path(path, name): both for name, both in boxes.items()}
        classes = vocab or sorted({label for _, labels in boxes.values() for label in labels})
        return cls.from_label_func(path, list(boxes), of_file.__getitem__, vocab=classes, **options)


@dataclass(frozen=True)
class _Part:
    """The boxes of a file (0), or their labels (1), of a function that finds both."""

    function: Callable[[Path], tuple[Any, Any]]
    part: int

    def __call__(self, file: Path) -> Any:
        found = self.function(file)
        if not isinstance(found, list | tuple) or len(found) != 2:
            raise DataError(f"label_func returned {found!r:.100}; expected (boxes, labels)")
        return found[self.part]

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


def _files(path: str | Path, fnames: Iterable[str | Path]) -> list[Path]:
    return [Path(path, _within(path, name)) for name in fnames]


def _within(path: str | Path, name: str | Path) -> Path:
    """Returns a file's name as seen from `path`, also where it has `path` already, as those of `get_image_files` do."""
    name = Path(name)
    return name.relative_to(path) if name.is_relative_to(path) and not Path(path, name).exists() else name


def _classes(labels: Sequence[Any], of: Sequence[Any]) -> list[Any]:
    """Returns the classes of all items, sorted; what `Categorize` learns, though from the training items only."""
    if (lacking := next((i for i, label in enumerate(labels) if missing(label)), None)) is not None:
        raise DataError(f"no label for {of[lacking]!r:.200}; fill it, or leave it out")
    return sorted(set(labels))


def _block_of(labels: Sequence[Any], rows: Any, columns: Any, *, all_are_seen: bool) -> TransformBlock:
    """Returns the block for what labels look like."""
    if not len(labels):
        raise DataError("there are no rows; there is nothing to learn from")
    several = isinstance(labels[0], list | tuple)
    numbers = [each for label in labels for each in (label if several else [label])]
    if several and not isinstance(columns, str | int):
        return block_of_columns(labels, columns)
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
