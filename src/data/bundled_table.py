"""Small tables that come with scikit-learn."""

from typing import Literal

from src.data.image_classes import SPLITS
from src.data.labelled import Sizes, Table, make_table, split_rows


def bundled_table(
    *,
    name: Literal["diabetes", "breast_cancer", "wine", "iris", "digits"],
    split_sizes: Sizes | None,
    split_seed: int | None,
    standardise: bool,
) -> Table:
    """diabetes (442 rows, 10 features, numbers as targets) or classes; no file needed.

    breast_cancer (569, 30; 2 classes), wine (178, 13; 3), iris (150, 4; 3), digits (1,797, 64; 10).
    split_sizes=null: 40, 30, 30 percent. Rows in an order drawn from split_seed; null: as they are.
    standardise: by the mean and standard deviation of the training rows, targets of diabetes too;
    a column that is constant in training becomes 0.

    Raises ValueError on sizes that cannot be had. https://scikit-learn.org/stable/datasets/
    """
    # Imported here: it takes most of a second.
    from sklearn import datasets

    inputs, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    num_classes = 0 if name == "diabetes" else int(targets.max()) + 1
    rows = split_rows(len(inputs), split_sizes, split_seed)
    return make_table(
        {split: inputs[rows[split]] for split in SPLITS},
        {split: targets[rows[split]] for split in SPLITS},
        num_classes,
        standardise,
    )
