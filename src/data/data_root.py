"""The folder in which a data set's files are looked for."""

from pathlib import Path

from src.data.checked_files import user_path


def data_root(root: str | None, advice: str) -> Path:
    """`root` as a folder that is there. Raises ValueError, which ends in `advice`, otherwise."""
    if root is None:
        raise ValueError(
            "root is not set: name a folder with data.root=FOLDER or the environment variable "
            f"BILEVEL_DATA; {advice}"
        )
    try:
        folder = user_path(root)
        there = folder.is_dir()
    except (OSError, ValueError) as error:  # a name that is too long, or of other characters
        raise ValueError(f"root={root!r} is no path: {error}") from error
    if not there:
        raise ValueError(f"root={root} is not a folder: {advice}")
    return folder
