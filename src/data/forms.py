"""The forms of data, and how one becomes another: what a problem needs, of what a loader gives."""

from typing import Any, get_args

import numpy as np

from src.data.checked_files import LARGEST, shown_size
from src.data.image_classes import SPLITS, ImageClasses
from src.data.labelled import LabelledImages, Table
from src.data.pool import Pool, by_classes, within_classes

Form = ImageClasses | LabelledImages | Table | Pool


def is_form(kind: Any) -> bool:
    """Whether `convert` knows this annotation: a form, or several of them."""
    return set(get_args(kind) or (kind,)) <= set(get_args(Form))


def convert(data: Form, needed: type, split_seed: int = 0) -> Any:
    """The data in the form that is needed, `data` itself where it has it.

    ImageClasses: of labelled data all samples together, the classes shared out 40 : 30 : 30; of
    tables whose files give splits, in these.
    LabelledImages: of classes, the samples of each shared out 40 : 30 : 30; of a table its rows,
    which a network sees as they are. Table: of images their pixels, value / 255.

    Raises ValueError where the data has no classes, or too little of something to be shared out.
    """
    if isinstance(data, needed):
        return data
    if needed is ImageClasses:
        return by_classes(_pooled(data, split_seed))
    if isinstance(data, Table):
        return _rows_with_labels(data)
    if not isinstance(data, LabelledImages):
        data = within_classes(_pooled(data, split_seed))
    return data if needed is LabelledImages else _table_of_pixels(data)


def _pooled(data: Form, split_seed: int) -> Pool:
    """All samples of the data, whatever split of a part of the files they were in."""
    if isinstance(data, Pool):
        return data
    if isinstance(data, ImageClasses):
        number, most = data.images.shape[:2]
        counts = np.full(number, most) if data.counts is None else data.counts
        there = np.arange(most) < counts[:, None]
        labels = np.repeat(np.arange(number, dtype=np.int32), counts)
        return Pool(
            data.images[there], labels, data.names, split_seed=split_seed, streamed=data.streamed
        )
    standardise, serves, scaling = False, (SPLITS,), None
    if isinstance(data, Table):
        standardise, serves, scaling = data.standardised, data.serves, data.scaling
        data = _rows_with_labels(data)
    inputs = np.concatenate([data.images[split] for split in SPLITS])
    labels = np.concatenate([data.labels[split] for split in SPLITS])
    names = data.names or tuple(str(label) for label in range(data.num_classes))
    origins = tuple(origin for split in SPLITS for origin in data.origins.get(split, ()))
    part_of = {split: part for part, splits in enumerate(serves) for split in splits}
    parts = np.repeat([part_of[s] for s in SPLITS], [len(data.labels[s]) for s in SPLITS])
    return Pool(
        *(inputs, labels, names, serves, parts, origins),
        split_seed=split_seed,
        standardise=standardise,
        scaling=scaling,
    )


def _rows_with_labels(table: Table) -> LabelledImages:
    if not table.num_classes:
        raise ValueError(
            "its targets are numbers, but classes are needed: choose data with classes (for your "
            "own table data.targets=classes where they are whole), or problem=regularisation"
        )
    dense = {split: rows for split, rows in table.inputs.items() if isinstance(rows, np.ndarray)}
    if len(dense) < len(table.inputs):
        raise ValueError(
            "its rows are sparse, which problem=regularisation alone can read; choose "
            "data.sparse=false, with fewer features (data.max_features=1000) or rows "
            "(data.split_sizes) if they are too many"
        )
    return LabelledImages(dense, table.targets, table.num_classes, table.names, table.origins)


def _table_of_pixels(data: LabelledImages) -> Table:
    size = sum(images.size for images in data.images.values()) * 8
    if size > LARGEST:
        raise ValueError(
            f"its images would fill {shown_size(size)} as a table of pixels, over the limit of "
            f"{shown_size(LARGEST)}; take fewer or smaller images (data.split_sizes, data.size)"
        )
    scale = {split: 255 if of.dtype == np.uint8 else 1 for split, of in data.images.items()}
    inputs = {
        split: of.reshape(len(of), -1).astype(np.float64) / scale[split]
        for split, of in data.images.items()
    }
    return Table(inputs, data.labels, data.num_classes, names=data.names, origins=data.origins)
