"""What loaders of labelled data return, and how rows are split."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from src.data.image_classes import SPLITS

# Rows for training, validation and test; of those that share a file, one may be all that is left.
Sizes = tuple[int | None, int | None, int | None]
BEYOND = (
    "standardise=true: some values are too large or too small for a mean and a standard deviation "
    "in float64; rescale them, or choose standardise=false"
)
SHARES: dict[str, int] = dict(zip(SPLITS, (4, 3, 3), strict=True))  # where no sizes are given


class LabelledImages(NamedTuple):
    """Labelled images, or rows of numbers, in the splits train, validation and test.

    images: {split: uint8 (n, height, width, channels), of which a network sees value / 255, or
        float64 rows (n, p), which it sees as they are}
    labels: {split: int32 (n,)}, in 0..num_classes - 1
    names: of the classes; () where the labels are names enough
    origins: {split: of each image its file or its row, for people}; {} where there is none
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    num_classes: int
    names: tuple[str, ...] = ()
    origins: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 (a default that is never changed)


class SparseRows(NamedTuple):
    """Rows with few entries that are not 0: entry j of row i is values[i, j] in columns[i, j].

    columns: int32 (n, m), values: float64 (n, m), where m is the most entries of a row; rows with
    fewer end with the value 0 in column 0.
    """

    columns: np.ndarray
    values: np.ndarray
    num_features: int

    @property
    def shape(self) -> tuple[int, int]:
        """That of the dense rows, (n, p)."""
        return self.columns.shape[0], self.num_features


class Table(NamedTuple):
    """Rows of numbers with one target each, in the splits train, validation and test.

    inputs: {split: float64 (n, p)}, or {split: SparseRows}
    targets: {split: float64 (n,)}, or int32 (n,) in 0..num_classes - 1
    num_classes: 0 where the targets are real numbers
    standardised: whether the inputs were brought to mean 0 and deviation 1 in the training rows
    names: of the classes; () where the labels are names enough
    scaling: (mean, deviation), each (p,), of what was standardised: inputs = (as in the files -
        mean) / deviation, where a deviation of infinity makes a constant 0; None: as in the files
    target_scaling: the same of targets, both numbers; None where they are as in the files
    features: names of the columns; () where they have none
    origins: {split: of each row where it is, for people}; {} where there is none
    serves: of each part of the files, the splits that were cut from it
    """

    inputs: Mapping[str, np.ndarray | SparseRows]
    targets: dict[str, np.ndarray]
    num_classes: int
    standardised: bool = False
    names: tuple[str, ...] = ()
    scaling: tuple[np.ndarray, np.ndarray] | None = None
    target_scaling: tuple[np.ndarray, np.ndarray] | None = None
    features: tuple[str, ...] = ()
    origins: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 (a default that is never changed)
    serves: tuple[tuple[str, ...], ...] = (SPLITS,)


def split_rows(num_rows: int, sizes: Sizes | None, seed: int | None) -> dict[str, np.ndarray]:
    """{split: indices}: `split_parts` of one part that serves all three splits."""
    return split_parts([(num_rows, SPLITS)], sizes, seed)


def split_parts(
    parts: Sequence[tuple[int, Sequence[str]]],
    sizes: Sizes | None,
    seed: int | None,
    what: str = "rows",
) -> dict[str, np.ndarray]:
    """{split: indices into its part}: parts are files, each (number of rows, splits it serves).

    The rows of a part in an order drawn from `seed` (None: as they are), cut to the sizes of its
    splits, one after the other. A size of None, at most one of a part, takes all that is left;
    sizes=None shares each part out 40 : 30 : 30. `what` the rows are, for messages. Raises
    ValueError on a negative seed, on sizes below 1, on two of a part that are None, and on more
    rows than a part has.
    """
    chosen = {}
    for num_rows, splits in parts:
        order = order_of(num_rows, seed)
        counts = _counts(num_rows, splits, sizes, what)
        ends = np.cumsum(counts)
        for split, count, end in zip(splits, counts, ends, strict=True):
            chosen[split] = order[end - count : end]
    return chosen


def order_of(number: int, seed: int | None) -> np.ndarray:
    """0..number - 1, in an order drawn from `seed` where it is given. Raises ValueError below 0."""
    if seed is None:
        return np.arange(number)
    if seed < 0:
        raise ValueError(
            f"split_seed={seed} must not be negative; choose split_seed=0, or null for the rows "
            "in the order in which they are stored"
        )
    return np.random.default_rng(seed).permutation(number)


def split_table(
    inputs: np.ndarray,
    targets: np.ndarray,
    names: tuple[str, ...],
    parts: np.ndarray,
    serves: Sequence[Sequence[str]],
    sizes: Sizes | None,
    seed: int | None,
    standardise: bool,
    origin_of: Callable[[int], str],
    predicted: str = "targets",
) -> Table:
    """`make_table` of rows in parts, each of which serves some splits, as in `split_parts`.

    names: of the classes; () where targets are numbers. parts: (n,), the part of each row.
    origin_of: where a row is, for people. predicted: what `targets` are, for people. Raises
    ValueError as these two.
    """
    inside = [np.flatnonzero(parts == part) for part in range(len(serves))]
    chosen = split_parts(
        [(len(of), splits) for of, splits in zip(inside, serves, strict=True)], sizes, seed
    )
    rows = {
        split: of[chosen[split]]
        for of, splits in zip(inside, serves, strict=True)
        for split in splits
    }
    table = make_table(
        {split: inputs[rows[split]] for split in SPLITS},
        {split: targets[rows[split]] for split in SPLITS},
        len(names),
        standardise,
        names,
        predicted,
    )
    origins = {split: tuple(map(origin_of, rows[split].tolist())) for split in SPLITS}
    return table._replace(origins=origins, serves=tuple(map(tuple, serves)))


def serves_of(given: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """What each part serves, where these splits have one of their own, "train" among them.

    In the order of SPLITS; a split without one is cut from train's.
    """
    cut = tuple(split for split in SPLITS if split == "train" or split not in given)
    return tuple(cut if split == "train" else (split,) for split in SPLITS if split in given)


def make_table(
    inputs: Mapping[str, Any],
    targets: dict[str, np.ndarray],
    num_classes: int,
    standardise: bool,
    names: tuple[str, ...] = (),
    predicted: str = "targets",
) -> Table:
    """A Table of what it holds; standardise: by the mean and standard deviation of training rows.

    Targets too, where they are numbers. A feature that is constant in training becomes 0. Raises
    ValueError where numbers to predict are, and where a mean or a standard deviation is beyond
    float64. `predicted`: what the targets are, for messages.
    """
    scaling = of_targets = None
    if not num_classes and (targets["train"] == targets["train"][0]).all():
        raise ValueError(
            f"{predicted}: the training rows ({len(targets['train'])}) all have the number "
            f"{targets['train'][0]:g}, so there is nothing to learn from; choose other rows for "
            "training (data.split_seed, data.split_sizes, or the split of the files), or another "
            "column to predict"
        )
    if standardise:
        scaling = scaling_of(inputs["train"])
        inputs = scaled(inputs, scaling)
        if not num_classes:
            of_targets = scaling_of(targets["train"])
            targets = scaled(targets, of_targets)
    kind = np.int32 if num_classes else np.float64
    typed = {split: of.astype(kind) for split, of in targets.items()}
    return Table(inputs, typed, num_classes, standardise, names, scaling, of_targets)


def standardised(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By the mean and standard deviation of the training rows, as in `make_table`."""
    return scaled(arrays, scaling_of(arrays["train"]))


def scaling_of(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, deviation), of which that of a constant column is infinity."""
    # Rounding gives the deviation of a constant column some value near 0, but not 0.
    constant = train.max(axis=0) == train.min(axis=0)
    with np.errstate(all="ignore"):
        mean, deviation = train.mean(axis=0), train.std(axis=0)
    # An infinite deviation of another column would turn it into zeros.
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        raise ValueError(BEYOND)
    return mean, np.where(constant, np.inf, deviation)


def scaled(
    arrays: Mapping[str, np.ndarray], scaling: tuple[np.ndarray, np.ndarray]
) -> dict[str, np.ndarray]:
    """(array - mean) / deviation. Raises ValueError where that is beyond float64."""
    mean, deviation = scaling
    with np.errstate(all="ignore"):
        scaled = {split: (array - mean) / deviation for split, array in arrays.items()}
    if not all(np.isfinite(array).all() for array in scaled.values()):
        raise ValueError(BEYOND)
    return scaled


def _counts(num_rows: int, splits: Sequence[str], sizes: Sizes | None, what: str) -> list[int]:
    """How many rows each of `splits` gets of the `num_rows` that they share."""
    shown = f"split_sizes={_typed(sizes)}"
    total = sum(SHARES[split] for split in splits)
    shares = [max(num_rows * SHARES[split] // total, 1) for split in splits[:-1]]
    by_split: dict[str, int | None] = dict(zip(SPLITS, sizes or (), strict=False))
    asked = [by_split[split] for split in splits] if sizes else [*shares, None]
    given = [size for size in asked if size is not None]
    listed = ", ".join(splits)
    if min(given, default=1) < 1:
        raise ValueError(f"{shown}: every size must be at least 1, or null for all that is left")
    if len(given) < len(asked) - 1:
        raise ValueError(
            f"{shown}: of {listed}, which share {num_rows} {what}, only one may be null (all that "
            "is left); write a number for the others"
        )
    rest = num_rows - sum(given)
    if rest < len(asked) - len(given):
        advice = "get more of them"
        if num_rows >= len(splits):
            fitting = by_split | dict(zip(splits, [*shares, None], strict=True))
            typed = _typed([fitting.get(split) for split in SPLITS])
            advice = f"choose for example split_sizes={typed}"
        raise ValueError(
            f"{shown} asks for at least {sum(size or 1 for size in asked)} {what} ({listed}), "
            f"but there are {num_rows}; {advice}"
        )
    return [rest if size is None else size for size in asked]


def _typed(sizes: Sequence[int | None] | None) -> str:
    """As on the command line."""
    if sizes is None:
        return "null"
    return f"[{','.join('null' if size is None else str(size) for size in sizes)}]"
