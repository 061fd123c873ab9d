"""The classes of a person's images, from folders to a table and a picture."""

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from src.data.checked_files import user_path
from src.data.image_files import Header
from src.files import write_json
from src.output.prediction_plots import prediction_sheet
from src.prediction.classify import (
    classify,
    head_serves,
    image_shape,
    training_images,
    ways_of,
)
from src.prediction.folders import INVERT, Folders, are_inverted, read_folders, shared_images
from src.prediction.tables import (
    Options,
    Report,
    decimals,
    heading,
    predictions_folder,
    state_name,
    write_csv,
)
from src.prediction.trained import model_of
from src.running.run_folder import Run
from src.settings.errors import UserError
from src.settings.key_values import one_of, whole_number


def report_classes(run: Run, options: Options) -> Report:
    """Adapt to the folder `support`, classify the images of `query`, write a table and a picture.

    Raises UserError where a folder or the classes do not suit the run.
    """
    for key in ("support", "query"):
        if key not in options:
            raise UserError(
                f"{key} is missing: this is a run of few_shot, so name a folder of images, "
                f"{key}=FOLDER"
            )
    experiment = run.experiment
    invert = one_of(options, "invert", INVERT)
    header = _header_of(image_shape(experiment))
    try:
        folders = read_folders(options["support"], options["query"], header)
    except ValueError as error:
        raise UserError(str(error)) from error
    number = len(folders.classes)
    head_serves(run, number)  # refuses before anything is computed
    theirs = np.rint(255 * training_images(experiment)).astype(np.uint8)
    as_given = folders
    # Each by its own paper: support may be drawings, and query photographs of a blackboard.
    inverted = [are_inverted(of.images, theirs, invert) for of in (folders.support, folders.query)]
    folders = _inverted(folders, *inverted)
    labels = folders.support.labels
    assert labels is not None  # each file of support lies in the folder of its class
    found = classify(
        run,
        folders.support.images,
        labels,
        folders.query.images,
        checkpoint=options.get("checkpoint", "last"),
        num_lower_steps=whole_number(options, "num_lower_steps"),
        seed=whole_number(options, "seed"),
    )
    name = f"{_file_name(options['query'])}-{state_name(options)}-K{found.num_lower_steps}"
    asked = {part: str(user_path(options[part]).resolve()) for part in ("support", "query")}
    path = _own_file(predictions_folder(run) / f"{name}.csv", asked)
    known = folders.query.labels is not None
    said = found.query.argmax(1)
    names = np.array(folders.classes, dtype=object)
    columns = [folders.query.files, names[said]]
    header_row = ["file", "predicted"]
    if known:
        header_row.append("label")
        columns.append(names[folders.query.labels])
    header_row += [f"p({name})" for name in folders.classes]
    write_csv(path, header_row, zip(*columns, *decimals(found.query.T), strict=True))
    title = f"{experiment.title()}, iteration {found.state.step}: support | queries"
    prediction_sheet(
        path.with_suffix(".png"),
        title,
        folders.classes,
        (as_given.support.images, labels),
        (as_given.query.images, folders.query.labels),
        found.query,
    )
    fitted = (found.support.argmax(1) == labels).mean()
    lines = [
        f"{heading(run, found.state.step, options)}, {found.num_lower_steps} lower steps",
        f"{number} classes, {len(folders.support.files)} support and {len(folders.query.files)} "
        f"query images, brought to {header.height}x{header.width}x{header.channels}"
        + _said_of_inverting(*inverted)
        + (" (invert=true or false decides)" if header.channels == 1 else ""),
        f"accuracy on the support images themselves: {fitted:.3f}",
    ]
    if known:
        right = int((said == folders.query.labels).sum())
        lines.append(f"accuracy: {right / len(said):.3f} ({right} of {len(said)} query images)")
    lines.append(f"the same as a picture: {path.with_suffix('.png')}")
    return lines + _remarks(run, folders), path


def _header_of(shape: tuple[int, ...]) -> Header:
    if len(shape) == 3 and (shape[2] == 1 or shape[2] == 3):
        return Header(shape[0], shape[1], shape[2])
    raise UserError(
        f"the run was trained on arrays of shape {shape}, but image files give (height, width, 1) "
        "or (height, width, 3); call src.prediction.classify in Python (docs/prediction.md)"
    )


def _remarks(run: Run, folders: Folders) -> list[str]:
    remarks = []
    number, shared = len(folders.classes), shared_images(folders)
    if shared:
        remarks.append(
            f"note: {shared} query images are also in the support set, so what is said of them is "
            "no test"
        )
    ways, _ = ways_of(run)
    if number != ways:
        remarks.append(f"note: the run was trained with {ways} classes per task, here are {number}")
    if model_of(run).batch_norm == "batch":
        remarks.append(
            "note: model.batch_norm=batch takes its statistics of all query images together, so "
            "what is said of one depends on the others; a run with model.batch_norm=support does "
            "not have this"
        )
    return remarks


def _inverted(folders: Folders, of_support: bool, of_query: bool) -> Folders:
    support, query = (
        part._replace(images=255 - part.images) if inverted else part
        for part, inverted in ((folders.support, of_support), (folders.query, of_query))
    )
    return folders._replace(support=support, query=query)


def _said_of_inverting(of_support: bool, of_query: bool) -> str:
    if of_support != of_query:
        one, other = ("support", "query") if of_support else ("query", "support")
        return f", {one} inverted, {other} not: their edges differ in light and dark"
    return ", inverted" if of_support else ", not inverted"


def _own_file(path: Path, asked: dict[str, str]) -> Path:
    """`path`, or, where it holds the answers for other folders, a name with a digest of ours.

    The folders stand beside the table, in a file of JSON.
    """
    if path.exists() and _folders_of(path) != asked:
        of_ours = blake2b("\0".join(asked.values()).encode(errors="surrogateescape"), digest_size=4)
        path = path.with_name(f"{path.stem}-{of_ours.hexdigest()}.csv")
    write_json(path.with_suffix(".json"), asked)
    return path


def _folders_of(table: Path) -> Any:
    """The folders that a table was made for; None where that is not known."""
    try:
        return json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _file_name(folder: str) -> str:
    """The last part of a path, as a part of a file's name."""
    name = Path(folder).expanduser().resolve().name[:60]
    return "".join(letter if letter.isprintable() else "_" for letter in name) or "root"
