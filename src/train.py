"""Train: `python -m src.train [method=bda] [problem=few_shot] [key=value ...]`.

Prints the path of result.json last and returns problem.monitor's metric of the best state, for
Hydra sweepers. Run again in the same hydra.run.dir, it continues where the run stopped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.experiment.cli import CONF, refusals_as_messages, run_for_people
from src.experiment.config import resolve


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def main(config: DictConfig) -> float:
    """One run of the composed config, in Hydra's run folder."""
    # Imported here so that --help and refusals by Hydra do not wait for jax.
    from src.experiment.run import run

    with refusals_as_messages(traceback=config.traceback):
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        result = run(resolve(config), run_dir)
    print(summary(result))
    print(run_dir / "result.json")
    return result[f"best/{result['monitor']}"]


def summary(result: Mapping[str, Any]) -> str:
    """The scores of a result with their intervals, and its speed."""
    lines = []
    for name, value in result.items():
        if "/" in name and isinstance(value, float) and not name.endswith("_ci95"):
            interval = result.get(f"{name}_ci95")
            lines.append(
                f"{name}: {value:.6g}" + (f" +- {interval:.2g}" if interval is not None else "")
            )
    lines.append(f"{result['iterations_per_second']:.4g} iterations/s, {result['seconds']:.1f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    run_for_people(main)
