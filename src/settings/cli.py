"""What every entry point shares: the command line, Hydra's composition, errors as messages."""

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from traceback import print_exc
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf, open_dict

from src.settings.config import NODES, dotted, missing_of_problem, unknown_key
from src.settings.errors import UserError, first_line
from src.settings.launchers import EXTRAS, choice_message, message_of_launcher
from src.settings.overrides import as_typed_in_shell

CONF = str(Path(__file__).resolve().parents[2] / "conf")


def argument_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of `python -m module`; the module's docstring is its help."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )


def key_value_arguments(
    module: str,
    description: str | None,
    keys: Mapping[str, str],
    *,
    metavar: str = "key=value",
    nargs: Literal["*", "+"] = "*",
) -> list[str]:
    """What was typed behind `python -m module`; `keys` has the meaning of each, for the help."""
    listed = "\n".join(f"{key}=...: {meaning}" for key, meaning in keys.items())
    parser = argument_parser(module, description)
    parser.add_argument("arguments", nargs=nargs, metavar=metavar, help=listed)
    return parser.parse_args().arguments


def run_for_people(main: Callable[[], object], folder_key: str = "") -> None:
    """Call a Hydra main; what Hydra refuses becomes one message on stderr and exit status 1.

    folder_key: as for `message_of`.

    HYDRA_FULL_ERROR=1 in the environment asks for the full traceback instead.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        main()
        return
    # Hydra then hands its errors to us instead of printing its own traces.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with refusals_as_messages(traceback=False, folder_key=folder_key):
        main()


def compose_config(overrides: list[str]) -> tuple[DictConfig, str]:
    """The composed config, and the run folder that a training run would get."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("config", overrides=overrides, return_hydra_config=True)
        run_dir = config.hydra.run.dir
    with open_dict(config):
        del config["hydra"]
    return config, run_dir


@contextmanager
def refusals_as_messages(traceback: bool, folder_key: str = "") -> Iterator[None]:
    """Turn errors that are meant for people into `error: ...` and exit status 1.

    folder_key: as for `message_of`.

    Anything else is a defect of ours and keeps its traceback. Warnings are one line each.
    """
    before = warnings.formatwarning
    try:
        warnings.formatwarning = _warning_for_people
        yield
        sys.stdout.flush()  # here, where it is known what to make of a closed pipe
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit("stopped by the keyboard; run the same command in the same folder to resume")
    except Exception as error:
        if traceback:
            # Printed here, since a caller further up may turn the error into a message.
            print_exc()
            sys.exit(1)
        message = message_of(error, folder_key)
        if message is None:
            raise
        sys.exit(f"error: {message}")
    finally:
        warnings.formatwarning = before


def _warning_for_people(message: Warning | str, category: type[Warning], *where: object) -> str:
    """`warning: ...` of what is meant for people; of libraries with its place, as python does."""
    if category is UserWarning:
        return f"warning: {message}\n"
    return f"{where[0]}:{where[1]}: {category.__name__}: {message}\n"


def message_of(error: Exception, folder_key: str = "") -> str | None:
    """What an error says to people; None where it is a defect of ours.

    folder_key: the key of the folder that is written, "" where the program has none.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        # Whoever refuses a folder does not know whether its run is a job of a sweep.
        return str(error).replace(
            "another hydra.run.dir", f"another {folder_key or 'hydra.run.dir'}"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return message_of_launcher(error) or _composition_message(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        return _choice_message(str(error))
    if isinstance(error, ValueError) and str(error).startswith("Only one of --run, --multirun"):
        return (
            "-m (--multirun), --cfg, --info and --run exclude each other: leave out all but one "
            "(--cfg shows one run: without -m and without lists of values)"
        )
    if isinstance(error, ValueError) and str(error).startswith("The --resolve flag"):
        return "--resolve is for --cfg and --help alone: add one of them, or leave it out"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be {_verb(error, folder_key)} ({error.strerror})" + (
            f": choose another {folder_key}" if folder_key else ""
        )
    return message_of_launcher(error)


def _verb(error: OSError, folder_key: str) -> str:
    """What cannot be done: an error of the system does not say whether it was to read or write."""
    if error.errno == errno.EEXIST:
        return "made a folder"
    writing = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
    return "written" if folder_key or error.errno in writing else "opened"


def _choice_message(text: str) -> str:
    """For null, a number or true in place of a file of a group."""
    for argument in sys.argv[1:]:
        key, _, value = argument.lstrip("+").partition("=")
        if Path(CONF, key).is_dir() and re.fullmatch(r"(?i)null|true|false|[-+.\d].*", value):
            return f"{key}={value} names no file of conf/{key}: choose {_files_of(key)}"
    return f"{text}: choose a file of conf/ for each group, such as data=none"


def _files_of(group: str) -> str:
    return ", ".join(sorted(file.stem for file in Path(CONF, group).glob("*.yaml")))


def _composition_message(error: Exception) -> str:
    """Hydra's own message; for an unknown key ours, which knows the nearest one."""
    from hydra.errors import OverrideParseException

    text = str(error).strip()
    # Where Hydra searched is of no use to anyone but Hydra's authors.
    text = text.partition("Config search path:")[0].strip().replace("\n\t", " ")
    first = text.splitlines()[0]
    unnamed = missing_of_problem(text, "the problem's file in conf/problem")
    if unnamed:
        return unnamed
    unloaded = re.search(r"Could not (?:load|find) '([\w/]+)/([^'/]*)'", text)
    if unloaded and unloaded[1] in EXTRAS:
        # Ours (slurm) begin with Hydra's (submitit_slurm), which is the one that is not found.
        typed = [
            argument.partition("=")[2]
            for argument in sys.argv[1:]
            if argument.startswith(f"{unloaded[1]}=")
        ]
        return choice_message(unloaded[1], unloaded[2], (typed or [unloaded[2]])[-1], CONF)
    if unloaded and Path(CONF, unloaded[1]).is_dir():
        group, name = unloaded.groups()
        near = get_close_matches(name, _files_of(group).split(", "), n=1)
        hint = f"did you mean {group}={near[0]}? " if near else ""
        return f"{group}={name} names no file of conf/{group}: {hint}choose {_files_of(group)}"
    if "LexerNoViableAltException" in first:
        return _both_quotes(first.partition(": ")[2].strip(), "")
    unread = re.match(r"mismatched input ' *([=()]) *'", first)
    if unread and isinstance(error, OverrideParseException) and "=" in error.override:
        return _both_quotes(error.override, f" because of the {unread[1]} in it")
    if first.startswith("Missing mandatory value"):
        return f"{first.rpartition(' ')[2]} is missing (???): give it a value"
    if first.startswith("Error merging override ") and error.__cause__ is not None:
        return f"{first.rpartition(' ')[2]}: {first_line(error.__cause__)}"
    if not first.startswith("Could not override '"):
        return text
    prefix, _, name = first.split("'")[1].rpartition(".")
    config = _chosen_config()
    node = OmegaConf.select(config, prefix) if prefix else config
    if not isinstance(node, DictConfig) or not node:
        return text
    known = [str(key) for key in node]
    elsewhere = [] if prefix else _meant_by_people(config)
    message = unknown_key(f"{prefix}." if prefix else "", name, known, elsewhere)
    return message + _choices_that_have_it(prefix, name)


def _choices_that_have_it(group: str, name: str) -> str:
    """'; it is an option of aggregation=descent': the files of a group that have the key."""
    files = sorted(Path(CONF, group).glob("*.yaml")) if group else []
    having = [f"{group}={file.stem}" for file in files if name in OmegaConf.load(file)]
    return f"; {name} is an option of {' and '.join(having[:3])}" if having else ""


def _both_quotes(typed: str, why: str) -> str:
    key, _, value = typed.partition("=")
    right = as_typed_in_shell(key, value)
    return f"{typed} cannot be read{why}; write such a value in both quotes: {right}"


def _meant_by_people(config: DictConfig) -> list[str]:
    """All dotted keys but numbers that other keys take over, and what is cited."""
    apart = ("recommended", "cite")
    plain: Any = OmegaConf.to_container(config)
    return list(dotted(plain, lambda path: path.rpartition(".")[2] in apart))


def _chosen_config() -> DictConfig:
    """The composition of the groups that were typed, without any other key; {} for wrong ones."""
    from hydra.errors import HydraException

    groups = {*NODES, "method", "experiment", "debug"}
    chosen = [text for text in sys.argv[1:] if text.partition("=")[0] in groups]
    try:
        return compose_config(chosen)[0]
    except HydraException:  # a choice that does not exist either
        return OmegaConf.create()
