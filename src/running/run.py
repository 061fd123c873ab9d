"""One run, from a composed config to result.json."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import jax

from src.data.contents import files_of, stamp_of_files
from src.files import write_json, write_text
from src.output.writers import END_OF_RUN, Writer, open_writers
from src.running.checkpoint import Checkpoints, kept_steps, open_checkpoints
from src.running.compilation import use_compilation_cache
from src.running.evaluation import make_evaluate
from src.running.failures import memory_as_message
from src.running.joining import joined, refuse_other_data
from src.running.loop import fresh_snapshot, in_full, logged, train
from src.running.memory import in_words, mib, within_budget
from src.running.pictures import draw_pictures
from src.running.processes import leaving
from src.running.provenance import record_provenance
from src.running.result import described, result_of
from src.running.run_folder import (
    DATA,
    FAILURE,
    Run,
    claim,
    finished_result,
    note_data,
    noted_stamp,
    refuse_changed_data,
    sole_writer,
)
from src.running.shared_folder import SharedCheckpoints, shared_checkpoints, shared_writer
from src.running.snapshot import Snapshot
from src.running.starting import started_from
from src.running.stopping import stop_requests
from src.running.violation import warn_of_violation
from src.settings.build import Experiment, build, loaded
from src.settings.checked import Settings, check_config, check_settings, identity_of
from src.settings.devices import has_begun, start_devices
from src.settings.errors import UserError
from src.settings.placing import own_copy
from src.settings.references import bibliography


def run(config: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train, evaluate, and write result.json; the result is also returned.

    overrides: what was typed for this run, as result.json is to tell. A run that is finished is
    left as it is. Raises UserError with a message for people; nothing of another run's folder is
    touched then. Raises Stopped where it was asked to stop.
    """
    if folder.resolve() == Path(__file__).resolve().parents[2]:
        raise UserError("hydra.run.dir is the project's own folder: choose another, such as runs/a")
    settings = check_settings(config)
    alone = not has_begun(settings)
    processes = joined(config, settings)
    stored = processes.first(lambda: finished_result(folder, identity_of(config), settings))
    if stored is not None:
        processes.first(lambda: _refuse_changed_files(config, folder))
        print(f"{folder} is finished: nothing is done again", file=sys.stderr)
        return stored
    use_compilation_cache(settings.compilation_cache)
    with jax.enable_x64(settings.dtype == "float64"), ExitStack() as stack:
        stack.enter_context(leaving(processes))
        experiment = processes.each(lambda: _built(config, settings))
        refuse_other_data(processes, experiment.source.data)
        fresh = fresh_snapshot(experiment)
        # Its folder of checkpoints says nothing: it is made long before the first is in it.
        if settings.start_from is not None and processes.first(lambda: not kept_steps(folder)):
            fresh = started_from(experiment, fresh, processes)

        def open_folder() -> Checkpoints:
            stack.enter_context(sole_writer(folder))
            claim(folder, identity_of(config), settings.resume, experiment.file_data)
            return open_checkpoints(folder)

        checkpoints = stack.enter_context(closing(shared_checkpoints(processes, open_folder)))
        snapshot = _where_it_stands(settings, fresh, folder, checkpoints)
        step = snapshot.progress.step

        def begin() -> Writer:
            write_json(folder / "config.json", dict(config))
            write_text(folder / "citations.bib", bibliography(experiment.cite))
            record_provenance(folder / "provenance.json", step)
            # A longer run of the same identity goes on: its old result is no longer the result.
            (folder / "result.json").unlink(missing_ok=True)
            (folder / FAILURE).unlink(missing_ok=True)
            return open_writers(experiment, config, folder, step)

        writer = shared_writer(processes, begin)
        stack.enter_context(memory_as_message())
        stack.enter_context(leaving(processes))
        whole = Run(experiment, config, folder, checkpoints, writer, processes, alone)
        try:
            return _train_and_score(whole, snapshot, described(experiment, overrides))
        except UserError as error:
            if processes.rank == 0:
                with suppress(OSError):  # the error itself may be a full disk
                    write_text(folder / FAILURE, f"{error}\n")
            raise


def _refuse_changed_files(config: Mapping[str, Any], folder: Path) -> None:
    """Of a finished run: files that cannot be read any more are no reason to refuse its result."""
    if not (folder / DATA).exists():
        return
    node = check_config(config).node("data")
    stamp = stamp_of_files(files_of(node.factory, node.options).values())
    if stamp is not None and stamp == noted_stamp(folder):
        return
    start_devices(check_settings(config))  # a loader may look at the devices, which fixes them
    try:
        _, file_data = loaded(node)
    except UserError:
        return
    refuse_changed_data(folder, file_data)
    with suppress(OSError):  # only so that they are not read again
        note_data(folder, file_data)


def _built(config: Mapping[str, Any], settings: Settings) -> Experiment:
    """The experiment, by the plan that fits the budget where there is one."""
    if settings.memory_budget is None:
        return build(config)
    plan, needed = within_budget(config, settings.memory_budget)
    print(
        f"memory_budget={settings.memory_budget}: {in_words(plan.changed)}; an iteration takes "
        f"{mib(needed)}",
        file=sys.stderr,
    )
    return plan.experiment


def _where_it_stands(
    settings: Settings,
    fresh: Snapshot,
    folder: Path,
    checkpoints: Checkpoints | SharedCheckpoints,
) -> Snapshot:
    """The last checkpoint, or the state before the first iteration."""
    snapshot = checkpoints.restore(fresh)
    if snapshot is None:
        return fresh
    step = snapshot.progress.step
    if step > settings.num_iterations:
        raise UserError(
            f"num_iterations={settings.num_iterations} is behind the checkpoint of {folder} "
            f"(iteration {step}); choose num_iterations={step} or more, or another hydra.run.dir"
        )
    print(f"resuming {folder} from iteration {step}", file=sys.stderr)
    return snapshot


def _train_and_score(
    run: Run, snapshot: Snapshot, description: Mapping[str, Any]
) -> dict[str, Any]:
    num_lower_steps = run.experiment.settings.steps_of_tests()
    evaluate = make_evaluate(run.experiment, num_lower_steps)
    curve = make_evaluate(run.experiment, num_lower_steps, every_step=True)
    result: dict[str, Any] | None = None
    pictures: list[Path] = []
    try:
        with stop_requests() as stop_requested:

            def stop_agreed() -> int | None:
                return run.processes.largest(stop_requested() or 0) or None

            trained = train(run, evaluate, snapshot, stop_agreed)
        result = {**description, **result_of(run, evaluate, curve, trained)}
        warn_of_violation(run.experiment, result)
        _log_the_end(run, trained, result)
        pictures += run.processes.first(_ending(run, trained, result))
    finally:
        run.writer.close(result, pictures)
    assert result is not None  # otherwise an exception is on its way
    return result


def _ending(run: Run, trained: Snapshot, result: Mapping[str, Any]) -> Callable[[], list[Path]]:
    """The pictures and result.json: what the process that writes has left to do."""
    source = run.experiment.source
    own_source = source._replace(data=own_copy(source.data))
    own_run = run._replace(experiment=run.experiment._replace(source=own_source))
    own_trained = trained._replace(state=own_copy(trained.state))

    def end() -> list[Path]:
        try:
            return draw_pictures(own_run, own_trained, result)
        finally:
            # Last, since a folder with a result is finished; and whatever becomes of the pictures.
            write_json(run.folder / "result.json", result)

    return end


def _log_the_end(run: Run, trained: Snapshot, result: Mapping[str, Any]) -> None:
    """What no row has yet: the iterations since the last one, and scores between two validations.

    A longer run has no such row: it logs these iterations at the next log_every.
    """
    settings, progress = run.experiment.settings, trained.progress
    row = logged(progress) if progress.pending else {}
    if progress.step % settings.eval_every:
        row |= {name: score for name, score in result.items() if name.startswith("validation/")}
    if row:
        run.writer.log(in_full(row, settings, progress) | {END_OF_RUN: True})
