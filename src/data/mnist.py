"""MNIST: 70,000 handwritten digits."""

from src.data.data_root import data_root
from src.data.fashion_mnist import OFFICIAL as FASHION
from src.data.labelled import LabelledImages, Sizes
from src.data.mnist_files import STEMS, find_files, read_files, split_files

FOLDERS = ("mnist", "MNIST/raw", "MNIST", ".")
ADVICE = (
    f"put the four files {', '.join(STEMS)}, plain or .gz, there or into {FOLDERS[0]}/; or choose "
    "data=digits, which needs no file, or data=fashion_mnist, which Debian has"
)


def mnist(
    *, root: str | None, split_sizes: Sizes, split_seed: int | None, pooled: bool
) -> LabelledImages:
    """Digits 0..9: uint8 28x28x1, 60,000 in the train file and 10,000 in the test file.

    From `root`, or mnist/, MNIST/raw/ or MNIST/ in it. Options as of `fashion_mnist`. Only the
    form is checked: no official digests are known here, but files of Fashion-MNIST, which have
    the same names, are told by theirs. LeCun, Bottou, Bengio, Haffner: Gradient-based learning
    applied to document recognition, Proceedings of the IEEE 1998.

    Raises ValueError where no file is found, where one is damaged, of another form or
    Fashion-MNIST's, or on sizes that cannot be had.
    """
    folder = data_root(root, ADVICE)
    try:
        paths = find_files([folder / name for name in FOLDERS])
        files = None if paths is None else read_files(paths)
    except ValueError as error:
        raise ValueError(f"root={root}: {error}") from error
    if files is None:
        raise ValueError(f"root={root} holds no MNIST: {ADVICE}")
    for path, digest in files.digests.items():
        if digest in FASHION:
            raise ValueError(
                f"root={root}: {path} is a file of Fashion-MNIST; choose data=fashion_mnist, or "
                f"put MNIST's files into {folder / FOLDERS[0]}"
            )
    return split_files(files, split_sizes, split_seed, pooled)
