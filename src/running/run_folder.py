"""A run and its folder: whose the folder is, who may write it, what is written before a run."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from src.files import remove_temporaries, write_json
from src.output.writers import Writer
from src.running.checkpoint import Checkpoints
from src.running.differences import differences
from src.running.processes import ONE, Processes
from src.running.shared_folder import SharedCheckpoints
from src.settings.build import Experiment, FileData
from src.settings.checked import Settings
from src.settings.errors import UserError

FORMAT = 3
DATA = "data_digest.json"
FAILURE = "failure.txt"  # why the last process ended without a result
# What a run writes or removes, as patterns: of others it must not be.
OURS = (
    *("config.json", "result.json", "metrics*.jsonl", "provenance.json", "citations.bib"),
    *("checkpoints", "checkpoint_digests.json", "wandb", "wandb_id.txt", "events.out.tfevents*"),
    *(FAILURE, "*.png"),
)


class Run(NamedTuple):
    """One run: what it is made of, and where it leaves what.

    config: the resolved configuration, as config.json holds it. alone: whether the process has
    done nothing before, so that its peak of memory is that of the run.
    """

    experiment: Experiment
    config: Mapping[str, Any]
    folder: Path
    checkpoints: Checkpoints | SharedCheckpoints
    writer: Writer
    processes: Processes = ONE
    alone: bool = False


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the run folder's lock. Raises UserError where it is held, or cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"hydra.run.dir={folder} cannot be written ({error.strerror}): choose another folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another process is writing {folder}: wait for it, or choose another hydra.run.dir"
            ) from error
        yield


def claim(
    folder: Path, identity: Mapping[str, Any], resume: str, file_data: FileData | None
) -> None:
    """Make the folder this run's own, or refuse it because it is another's.

    Raises UserError where the folder holds a run of another configuration or of another format,
    of other data, files that a run would overwrite and no identity.json, and with resume=never any
    run.
    """
    remove_temporaries(folder)
    path = folder / "identity.json"
    found = sorted(file.name for pattern in OURS for file in folder.glob(pattern))
    if not path.exists() and found:
        raise UserError(
            f"{folder} holds {', '.join(found[:5])} but no identity.json, so they are not known to "
            "be this run's, and would be overwritten: choose another hydra.run.dir"
        )
    if not path.exists():
        note_data(folder, file_data)
        write_json(path, {"format": FORMAT, "config": identity})
        return
    theirs = refuse_other_format(folder)
    if theirs != identity:
        different = differences(theirs, identity)
        raise UserError(
            f"{folder} belongs to a run of another configuration ({different}): "
            "choose another hydra.run.dir, or repeat that configuration to continue it"
        )
    if resume == "never":
        raise UserError(
            f"resume=never, but {folder} already holds this run: choose another hydra.run.dir, "
            "or resume=auto to continue it"
        )
    refuse_changed_data(folder, file_data)
    note_data(folder, file_data)  # again: of a run of before, or of files that were written again


def note_data(folder: Path, file_data: FileData | None) -> None:
    if file_data is not None:
        write_json(folder / DATA, {"data": file_data.digest, "stamp": file_data.stamp})


def noted_stamp(folder: Path) -> str | None:
    """None where none is noted. Raises UserError where the note is damaged."""
    return _noted(folder).get("stamp")


def refuse_changed_data(folder: Path, file_data: FileData | None) -> None:
    """Raises UserError where the files hold other data than when the run of this folder began."""
    path = folder / DATA
    if file_data is not None and path.exists() and _noted(folder)["data"] != file_data.digest:
        raise UserError(
            f"{file_data.options}: the data there are not those that the run of {folder} began "
            "with; put the old files back, or train on the new ones in another hydra.run.dir "
            f"(where the change means nothing for the run, delete {path})"
        )


def _noted(folder: Path) -> dict[str, Any]:
    path = folder / DATA
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {"data": known["data"], "stamp": known.get("stamp")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged, so whether the data are still those of the run is not known; "
            "delete it to take them as they are"
        ) from error


def finished_result(
    folder: Path, identity: Mapping[str, Any], settings: Settings
) -> dict[str, Any] | None:
    """The result of this very run where it has all its iterations and may be continued.

    None where there is something left to do, or to refuse.
    """
    try:
        theirs, result = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("identity.json", "result.json")
        )
        mine = {"format": FORMAT, "config": identity}
        ended = result["iterations"] == settings.num_iterations
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kept = (folder / "checkpoints" / str(settings.num_iterations)).is_dir()
    return result if ended and kept and theirs == mine and settings.resume == "auto" else None


def refuse_other_format(folder: Path) -> Any:
    """The configuration that a run folder belongs to.

    Raises UserError where there is none, where it is damaged, or of another format.
    """
    path = folder / "identity.json"
    if not path.exists():
        raise UserError(f"{folder} holds no identity.json, which every run of ours has")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        stored_format, config = stored["format"], stored["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: choose another hydra.run.dir") from error
    if stored_format != FORMAT:
        raise UserError(
            f"{folder} was written in checkpoint format {stored_format}, this code reads format "
            f"{FORMAT}: choose another hydra.run.dir, or the version of the code that wrote it"
        )
    return config
