"""What every entry point shares: Hydra's composition, and errors as messages."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.experiment.errors import UserError

CONF = str(Path(__file__).resolve().parents[2] / "conf")


def run_for_people(main: Callable[[], object]) -> None:
    """Call a Hydra main; what Hydra refuses becomes one message on stderr and exit status 1.

    HYDRA_FULL_ERROR=1 in the environment asks for the full traceback instead.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        main()
        return
    # Hydra then hands its errors to us instead of printing its own traces.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with refusals_as_messages(traceback=False):
        main()


@contextmanager
def refusals_as_messages(traceback: bool) -> Iterator[None]:
    """Turn errors that are meant for people into `error: ...` and exit status 1.

    Anything else is a defect of ours and keeps its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("stopped by the keyboard; run the same command in the same folder to resume")
    except Exception as error:
        message = None if traceback else _message(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")


def _message(error: Exception) -> str | None:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _composition_message(error)
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename} cannot be written ({error.strerror}): choose another hydra.run.dir"
        )
    return None


def _composition_message(error: Exception) -> str:
    """Hydra's own message; for an unknown key ours, which knows the nearest one."""
    text = str(error).strip()
    first = text.splitlines()[0]
    if not first.startswith("Could not override '"):
        return text
    from src.experiment.config import known_keys, unknown_key

    prefix, _, name = first.split("'")[1].rpartition(".")
    known = known_keys(CONF, prefix, sys.argv[1:])
    return unknown_key(f"{prefix}." if prefix else "", name, known) if known else text
