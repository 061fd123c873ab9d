"""Fashion-MNIST: 70,000 pictures of clothes, in ten classes."""

from pathlib import Path

from src.data.data_root import data_root
from src.data.labelled import LabelledImages, Sizes
from src.data.mnist_files import STEMS, MnistFiles, find_files, read_files, split_files

# Where Debian's package dataset-fashion-mnist puts the files.
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
FOLDERS = ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", ".")
ADVICE = (
    "install them with `apt-get install dataset-fashion-mnist`; or put the four files of "
    "https://github.com/zalandoresearch/fashion-mnist (folder data/fashion) into a folder and name "
    "it with data.root=FOLDER; or choose data=digits, which needs no file"
)
# SHA-256 of the unpacked files, in the order of STEMS.
OFFICIAL = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)


def fashion_mnist(
    *,
    root: str | None,
    split_sizes: Sizes,
    split_seed: int | None,
    pooled: bool,
    verify: bool = True,
) -> LabelledImages:
    """Ten classes of clothes: uint8 28x28x1, 60,000 in the train file and 10,000 in the test file.

    From `root`, or fashion_mnist/, fashion-mnist/ or FashionMNIST/raw/ in it; where these hold
    none of the files, from Debian's package. split_sizes: train and validation from the train
    file, test from the test file; pooled: all from both. Rows in an order drawn from split_seed;
    null: as they are. verify: refuse what are not the official files, by their SHA-256; without
    it, `root` is the only place that is looked at. Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017.

    Raises ValueError where no file is found, where one is damaged, of another form or not
    official, or on sizes that cannot be had.
    """
    shown = f"root={'null' if root is None else root}"
    folders = []
    if root is not None:
        folders = [data_root(root, ADVICE) / name for name in FOLDERS]
    try:
        paths = find_files(folders)
        # Files of one's own must not be replaced by the official ones without a word.
        if paths is None and (verify or root is None):
            paths = find_files([INSTALLED])
        files = None if paths is None else read_files(paths)
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    if files is None:
        elsewhere = "" if verify or root is None else "; with verify=false, nowhere else is looked"
        raise ValueError(
            f"{shown}: {', '.join(STEMS)} (each plain or .gz) are not found{elsewhere}: {ADVICE}"
        )
    if verify:
        _refuse_others(files)
    return split_files(files, split_sizes, split_seed, pooled)


def _refuse_others(files: MnistFiles) -> None:
    for (path, digest), official in zip(files.digests.items(), OFFICIAL, strict=True):
        if digest != official:
            raise ValueError(
                f"verify=true: {path} is a whole file but not Fashion-MNIST's (SHA-256 of its "
                f"content {digest[:12]}..., official {official[:12]}...): {ADVICE}; or "
                "verify=false to use it as it is"
            )
