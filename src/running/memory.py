"""How much memory an iteration takes, as the compiler says, and the plan that fits a budget."""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from src.running.loop import initial_state, make_chunk
from src.running.seeds import seed_keys
from src.settings.build import Experiment, build
from src.settings.checked import check_settings
from src.settings.devices import start_devices
from src.settings.errors import UserError

UNITS = {"MiB": 2**20, "GiB": 2**30}


class Plan(NamedTuple):
    """What was changed of a configuration, and the experiment that it makes."""

    changed: Mapping[str, Any]
    experiment: Experiment


def bytes_of(text: str) -> int:
    """4GiB or 500MiB as a number. Raises UserError for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(MiB|GiB)", text)
    if found is None or not float(found[1]):
        raise UserError(f"memory_budget={text} is no amount of memory: write 4GiB or 500MiB")
    return int(float(found[1]) * UNITS[found[2]])


def needed_memory(experiment: Experiment) -> int:
    """Bytes on one device while it iterates: data, states, and what an iteration keeps.

    Compiles the iteration. Programs themselves and what python holds are not in it. Raises
    UserError where the compiler of this device has no estimate.
    """
    chunk, settings = make_chunk(experiment), experiment.settings
    keys = seed_keys(settings.seed, settings.seeds)
    bounds = (jnp.int32(0), jnp.int32(1))
    state = initial_state(experiment)
    compiled = chunk.lower(state, experiment.source.data, keys, *bounds).compile()
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise UserError("the compiler for this device says nothing of memory: memory_budget=null")
    return int(analysis.temp_size_in_bytes + analysis.argument_size_in_bytes)


def within_budget(config: Mapping[str, Any], budget: str) -> tuple[Plan, int]:
    """The fastest plan whose iteration fits the budget, and what it needs.

    Plans keep fewer results of the lower steps (hypergradient.checkpoints of `unrolled`) and take
    fewer tasks at once; the numbers are the same up to rounding. Raises UserError where none fits.
    """
    limit, least = bytes_of(budget), None
    for plan in _plans(config):
        needed = needed_memory(plan.experiment)
        if needed <= limit:
            return plan, needed
        least = needed if least is None else min(least, needed)
    raise UserError(
        f"memory_budget={budget}: an iteration takes at least {mib(least or 0)}; choose that, a "
        "smaller model, fewer tasks, seeds or rows (problem.batch_size), or a hypergradient whose "
        "memory does not grow with K, such as implicit_cg"
    )


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.0f}MiB"


def in_words(changed: Mapping[str, Any]) -> str:
    """A plan as it would be typed."""
    return (
        " ".join(f"{key}={value}" for key, value in changed.items()) or "the configuration as it is"
    )


def _plans(config: Mapping[str, Any]) -> Iterator[Plan]:
    settings = check_settings(config)
    start_devices(settings)  # before anything else asks jax for its devices
    keeps: list[dict[str, Any]] = [{}]  # the fastest first
    takes: list[dict[str, Any]] = [{}]
    if config["hypergradient"].get("checkpoints") == "none":
        keeps += [{"checkpoints": "steps"}, {"checkpoints": "sqrt"}]
    on_cpu = jax.default_backend() == "cpu"  # takes one task at a time already
    if settings.tasks_at_once is None and settings.meta_batch_size > 1 and not on_cpu:
        takes += [{"tasks_at_once": 1}]
    for kept, taken in product(keeps, takes):
        changed = taken | {f"hypergradient.{key}": value for key, value in kept.items()}
        chosen = {**config, **taken, "hypergradient": {**config["hypergradient"], **kept}}
        yield Plan(changed, build(chosen))
