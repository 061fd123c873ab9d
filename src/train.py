"""Train: `python -m src.train [method=bda] [problem=few_shot] [key=value ...]`.

Prints the path of result.json last and returns problem.monitor's metric of the best state, for
Hydra sweepers. Run again in the same hydra.run.dir, it continues where the run stopped.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.output.tables import aligned, iterations, with_interval
from src.settings.cli import CONF, refusals_as_messages, run_for_people
from src.settings.config import resolve


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def main(config: DictConfig) -> float:
    """One run of the composed config, in Hydra's run folder."""
    # Imported here so that --help and refusals by Hydra do not wait for jax.
    from src.running.run import run

    # Whether errors are shown in full must be known before anything is checked.
    with refusals_as_messages(traceback=config.get("traceback") is True):
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            result = run(resolve(config), folder)
        except KeyboardInterrupt:
            print(f"stopped; to continue, add hydra.run.dir={folder}", file=sys.stderr)
            sys.exit(130)
    print(summary(result))
    print(folder / "result.json")
    return result[f"best/{result['monitor']}"]


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
    table += [
        [name, *(_score(result, prefix + name) for prefix in columns.values())] for name in names
    ]
    speed = f"{result['iterations_per_second']:.4g} iterations/s, {result['seconds']:.1f} s in all"
    seeds = result.get("seeds", [])
    if seeds:
        failed = result["failed_seeds"]
        speed += f"\nmeans of {len(seeds) - len(failed)} of {len(seeds)} seeds, 95 % intervals"
        speed += "".join(f"\nseed {seed} is left out: {why}" for seed, why in failed.items())
    return "\n".join([*aligned(table), speed])


def _score(result: Mapping[str, Any], name: str) -> str:
    return with_interval(result[name], result.get(f"{name}_ci95"), digits=6)


if __name__ == "__main__":
    run_for_people(main)
