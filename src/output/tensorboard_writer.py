"""Rows, scores and pictures for TensorBoard, a dashboard without an account.

`tensorboard --logdir FOLDER` shows all runs below a folder. A run has one file of events: one that
goes on begins it again with the rows that it has already. Without these rows (a run without
metrics.jsonl) it adds a file, which TensorBoard joins to the ones before.
"""

import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.output.writer import Row, Writer, nothing
from src.settings.config import dotted
from src.settings.errors import UserError

# No options of an experiment: they would be columns of the table.
APART = {"logger", "recommended", "cite", "traceback", "resume", "compilation_cache"}


def tensorboard_writer(
    folder: Path, config: Mapping[str, Any], earlier: Sequence[Row] | None = ()
) -> Writer:
    """Events in the run folder; earlier: the rows that the run has already logged.

    None: nobody has kept them but the events that are there.
    """
    try:
        proto = "tensorboard.compat.proto"
        Event = importlib.import_module(f"{proto}.event_pb2").Event
        Summary = importlib.import_module(f"{proto}.summary_pb2").Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise UserError(
            "logger: tensorboard is not installed; install it with "
            "`pip install -e '.[tensorboard]'`, or choose logger=[console,jsonl]"
        ) from error
    old = list(folder.glob("events.out.tfevents.*"))
    file = EventFileWriter(str(folder))
    last = 0

    def add(summary: Any) -> None:
        file.add_event(Event(wall_time=time.time(), step=last, summary=summary))

    def add_numbers(numbers: Mapping[str, Any]) -> None:
        values = {k: v for k, v in numbers.items() if isinstance(v, int | float)}
        add(Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()]))

    def log(row: Row) -> None:
        nonlocal last
        last = row["step"]
        add_numbers({name: value for name, value in row.items() if name != "step"})
        file.flush()

    def close(result: Mapping[str, Any] | None, pictures: list[Path]) -> None:
        try:
            for path in pictures:
                image = Summary.Image(encoded_image_string=path.read_bytes())
                add(Summary(value=[Summary.Value(tag=f"pictures/{path.stem}", image=image)]))
            scores = result or {}
            add_numbers({k: v for k, v in scores.items() if k.startswith(("test/", "best/"))})
        finally:
            file.close()

    add(hparams_pb(options_of(config), trial_id=folder.name))
    if earlier is not None:
        for row in earlier:
            log(row)
        for path in old:
            path.unlink()
    return Writer(progress=nothing, log=log, close=close)


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of a configuration, for its table of hyperparameters; texts for lists."""
    options = dotted(config, lambda path: path.rpartition(".")[2] in APART)
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in options.items()
    }
