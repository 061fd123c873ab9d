"""Names of the jobs of a sweep: what differs between them, in words that any file system takes."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 200  # bytes; a file system allows 255, and a name may get something added
TIME = re.compile(r"\d\d-\d\d-\d\d")


def job_name(differences: str, otherwise: str) -> str:
    """A folder name for `key=value,key=value`; `otherwise` where nothing differs.

    What a file system or a shell may not like becomes _, and a long name is cut. A digest of the
    whole text then follows, so that two jobs never share a name.
    """
    text = differences or otherwise
    safe = re.sub(r"[^\w.,=+\[\]-]", "_", text).lstrip("-.") or "job"
    name = safe.encode()[:LONGEST].decode(errors="ignore")
    if name == text:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{safe.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def sweep_name(folder: str) -> str:
    """A name for the sweep of this folder: the folder's own, behind its day where it is a time."""
    *_, day, last = ["", *re.split(r"[/\\]+", folder.rstrip("/\\"))]
    name = f"{day}_{last}" if TIME.fullmatch(last) and day else last
    return name or "sweep"


def constant_keys(overrides: Iterable[tuple[str, bool]]) -> list[str]:
    """The keys that have one value in the whole sweep, of (key, whether it is swept over)."""
    swept: dict[str, bool] = {}
    for key, several in overrides:
        swept[key] = several  # the last one counts, as for Hydra
    return [key for key, several in swept.items() if not several]


def labelled(config: Mapping[str, Any], sweep_dir: str, name: str) -> dict[str, Any]:
    """A job's configuration, where wandb shows it as the `name` of the group of its sweep.

    What logger.wandb.group and logger.wandb.name say already stays.
    """
    logger = config.get("logger")
    if not isinstance(logger, Mapping) or not isinstance(logger.get("wandb"), Mapping):
        return dict(config)
    options = logger["wandb"]
    ours = {"group": sweep_name(sweep_dir)[:128], "name": name[:128]}
    new = {key: value for key, value in ours.items() if options.get(key) is None}
    return {**config, "logger": {**logger, "wandb": {**options, **new}}}
