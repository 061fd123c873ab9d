"""Train: `python -m src.train [method=bda] [problem=few_shot] [key=value ...]`.

Prints the path of result.json last and returns problem.monitor's metric of the best state, for
Hydra sweepers. Run again in the same hydra.run.dir, it continues where the run stopped. All jobs of
a sweep (-m) run; one that gives no result returns None, and is listed at the end.
"""

import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from traceback import print_exc
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.output.tables import aligned, iterations, with_interval
from src.settings.cli import CONF, message_of, refusals_as_messages, run_for_people
from src.settings.config import resolve
from src.settings.overrides import as_typed_in_shell


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def main(config: DictConfig) -> float | None:
    """One run of the composed config, in Hydra's run folder."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        return _job_of_sweep(config, folder)
    # Whether errors are shown in full must be known before anything is checked.
    with refusals_as_messages(config.get("traceback") is True, "hydra.run.dir"):
        where = as_typed_in_shell("hydra.run.dir", str(folder))
        return _run(resolve(config), folder, where)


def _run(config: Mapping[str, Any], folder: Path, where: str) -> float:
    """One run and its printed summary; `where` is what continues it, as an override."""
    # Imported here so that --help and refusals by Hydra do not wait for jax.
    import jax

    from src.running.run import run
    from src.running.stopping import TIME_IS_UP, Stopped

    try:
        result = run(config, folder, list(HydraConfig.get().overrides.task))
    except (KeyboardInterrupt, Stopped) as stop:
        what = str(stop) or "stopped by the keyboard"
        print(f"{what}; to go on, run the same command with {where}", file=sys.stderr)
        if isinstance(stop, Stopped) and stop.signal_number == TIME_IS_UP:
            signal.raise_signal(TIME_IS_UP)  # the launcher's turn: it queues the job again
        sys.exit(stop.status if isinstance(stop, Stopped) else 130)
    finally:
        with suppress(OSError):
            folder.rmdir()  # Hydra makes it before anything is checked; it stays if not empty
    if jax.process_index() == 0:  # of several processes the one that writes
        print(summary(result))
        print(folder / "result.json")
    return result[f"best/{result['monitor']}"]


def _job_of_sweep(config: DictConfig, folder: Path) -> float | None:
    """A run, or None where it fails. The jobs after it run in any case.

    Optuna's sweeper takes None for a failed trial, and stops at a nan.
    """
    from src.settings.hosts import refuse_sweep
    from src.settings.sweep import record_failure
    from src.settings.sweep_names import labelled

    hydra_config = HydraConfig.get()
    sweep_dir = Path(hydra_config.sweep.dir).resolve()
    try:
        plain = labelled(resolve(config), str(sweep_dir), folder.name)
        refuse_sweep(plain.get("coordinator"))
        return _run(plain, folder, as_typed_in_shell("hydra.sweep.dir", str(sweep_dir)))
    except Exception as error:
        reason = message_of(error, "hydra.sweep.dir")
        if reason is None or config.get("traceback") is True:
            print_exc()
        reason = reason or f"a defect of the program: {type(error).__name__}: {error}"
        record_failure(sweep_dir, folder, list(hydra_config.overrides.task), reason)
        return None


def summary(result: Mapping[str, Any]) -> str:
    """The test scores of the last and of the best state with their intervals, and the speed.

    Those of validation where there is no test data.
    """
    columns = {f"last state (iteration {result['iterations']})": ""}
    monitored = result["monitor"]
    if result[monitored] != result[f"best/{monitored}"]:
        best = result["best/step"]
        dead = [int(seed) - result["seeds"][0] for seed in result.get("failed_seeds", {})]
        steps = [best]
        if isinstance(best, list):
            steps = [step for i, step in enumerate(best) if i not in dead]
        columns[f"best by {monitored} ({iterations(steps)})"] = "best/"
    means = [name for name in result if not name.endswith("_ci95")]
    names = [name for name in means if name.startswith("test/")]
    names = names or [name for name in means if name.startswith("validation/")]
    table = [["", *columns]]
    alike = _ignores_seed(result)
    table += [
        [name, *(_score(result, prefix + name, alike) for prefix in columns.values())]
        for name in names
    ]
    rate, seconds = result["iterations_per_second"], result["seconds"]
    speed = f"{rate:.4g} iterations/s, {seconds:.1f} s of training"
    seeds = result.get("seeds", [])
    if seeds:
        failed = result["failed_seeds"]
        speed += (
            f"\nall {len(seeds)} seeds have the same scores: they depend on nothing random"
            if alike
            else f"\nmeans of {len(seeds) - len(failed)} of {len(seeds)} seeds, 95 % intervals"
        )
        speed += "".join(f"\nseed {seed} is left out: {why}" for seed, why in failed.items())
    return "\n".join([*aligned(table), speed])


def _ignores_seed(result: Mapping[str, Any]) -> bool:
    """Whether several seeds, none of which failed, have exactly the same scores."""
    return all(
        len(of) > 1 and len(set(of)) == 1 for of in result.get("per_seed", {"": ()}).values()
    )


def _score(result: Mapping[str, Any], name: str, alike: bool) -> str:
    half = None if alike else result.get(f"{name}_ci95")
    return with_interval(result[name], half, digits=6)


if __name__ == "__main__":
    run_for_people(main, "hydra.run.dir")
