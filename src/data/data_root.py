"""The folder in which a data set's files are looked for."""

from pathlib import Path


def data_root(root: str | None, advice: str) -> Path:
    """`root` as a folder that is there. Raises ValueError, which ends in `advice`, otherwise."""
    if root is None:
        raise ValueError(
            "root is not set: name a folder with data.root=FOLDER or the environment variable "
            f"BILEVEL_DATA; {advice}"
        )
    if not Path(root).is_dir():
        raise ValueError(f"root={root} is not a folder: {advice}")
    return Path(root)
