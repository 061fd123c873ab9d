"""A whole configuration, checked: all that a run reads of it, typed.

Nothing reads the composed config before it has been through here.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_type_hints

from src.settings.config import CITE, NODES, Node, check, check_node
from src.settings.errors import UserError
from src.settings.hosts import PROCESS_KEYS, check_hosts

LARGEST = 2**31 - 1  # of a counter on the device


class Monitor(NamedTuple):
    """Which logged metric chooses the best state, and which way is better."""

    metric: str
    mode: Literal["min", "max"]


class Method(NamedTuple):
    """conf/method/*.yaml beside the groups that it chooses: names for people, and the roles.

    cite: keys of docs/references.bib. recommended: numbers that files of other groups take, where
    they have such an option.
    """

    name: str
    lower_variable: Literal["head", "all"]
    learn_start: bool | Literal["network"]
    cite: tuple[str, ...] = ()
    recommended: dict[str, Any] = {}  # noqa: RUF012 (a default that is never changed)


class Settings(NamedTuple):
    """The top-level keys of conf/config.yaml, where their meaning stands."""

    seed: int
    seeds: int
    num_iterations: int
    num_lower_steps: int
    meta_batch_size: int
    tasks_at_once: int | None
    lower_start: Literal["fixed", "redrawn", "warm"]
    proximal_weight: float
    test_step_size: Literal["learned", "initial"] | float
    dtype: Literal["float32", "float64"]
    log_every: int
    eval_every: int
    checkpoint_every: int
    num_validation_tasks: int
    num_test_tasks: int
    resume: Literal["auto", "never"]
    start_from: str | None
    compilation_cache: bool
    traceback: bool
    # With defaults, as older runs have no such keys.
    test_num_lower_steps: int | None = None
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    devices: int | Literal["auto"] = "auto"
    memory_budget: str | None = None
    feature_dtype: Literal["bfloat16", "float16"] | None = None
    coordinator: str | None = None
    num_processes: int = 1
    process_id: int = 0
    connect_seconds: float = 60.0

    def steps_of_tests(self) -> int:
        """Lower steps before a task is scored."""
        return self.test_num_lower_steps or self.num_lower_steps


class WandbOptions(NamedTuple):
    """conf/logger/wandb.yaml, where the meaning stands."""

    mode: Literal["offline", "online", "disabled"]
    project: str
    group: str | None
    name: str | None
    tags: tuple[str, ...]


class Writers(NamedTuple):
    """Which writers are on; each is one yaml under conf/logger."""

    console: bool = False
    jsonl: bool = False
    wandb: WandbOptions | None = None
    tensorboard: bool = False


class Checked(NamedTuple):
    """A whole configuration. A node is None where its group is `none`."""

    settings: Settings
    writers: Writers
    method: Method
    problem_name: str
    monitor: Monitor
    nodes: Mapping[str, Node | None]

    def node(self, path: str) -> Node:
        """The node of a group that every run needs. Raises UserError where it is none."""
        node = self.nodes[path]
        if node is None:
            raise UserError(
                f"{path} is none, but every run needs one: choose a file of conf/{path}"
            )
        return node


def check_config(config: Mapping[str, Any]) -> Checked:
    """Every key of a composed config. Raises UserError naming the first that is wrong."""
    settings = check_settings(config)
    nodes = {path: check_node(path, config.get(path)) for path in NODES}
    writers = check_writers(config.get("logger") or {})
    method = check(
        "method", get_type_hints(Method), config.get("method") or {}, Method._field_defaults
    )
    labels = config["problem"]  # a mapping, or check_node would have refused it
    for name in ("name", "monitor"):
        if name not in labels:
            raise UserError(f"problem.{name} is missing: conf/problem/ridge.yaml shows one")
    name = check("problem", {"name": str}, {"name": labels["name"]})["name"]
    monitor = check("problem.monitor", get_type_hints(Monitor), labels["monitor"])
    return Checked(settings, writers, Method(**method), name, Monitor(**monitor), nodes)


def check_settings(config: Mapping[str, Any]) -> Settings:
    """The top-level keys, typed and in range. Raises UserError naming the key."""
    groups = {*NODES, "method", "logger"}
    top = {key: value for key, value in config.items() if key not in groups}
    settings = Settings(**check("", get_type_hints(Settings), top, Settings._field_defaults))
    for name in (
        "seeds",
        "num_iterations",
        "num_lower_steps",
        "meta_batch_size",
        "log_every",
        "eval_every",
        "checkpoint_every",
        "num_validation_tasks",
        "num_test_tasks",
        "test_num_lower_steps",
    ):
        value = getattr(settings, name)
        if value is None:
            continue
        if value < 1:
            or_null = ", or null" if Settings._field_defaults.get(name, 1) is None else ""
            raise UserError(f"{name}={value} must be at least 1{or_null}")
        if value > LARGEST:
            raise UserError(f"{name}={value} must be at most {LARGEST}")
    if isinstance(settings.test_step_size, float) and not settings.test_step_size > 0:
        raise UserError(
            f"test_step_size={settings.test_step_size} must be positive, or learned, or initial"
        )
    # Beyond 32 bits, jax.random.key would silently take another seed's key.
    if not 0 <= settings.seed <= 2**32 - settings.seeds:
        raise UserError(
            f"seed={settings.seed} is outside 0..{2**32 - settings.seeds}; choose seed=0"
        )
    check_hosts(
        settings.coordinator,
        settings.num_processes,
        settings.process_id,
        settings.connect_seconds,
    )
    return settings


def check_writers(logger: Mapping[str, Any]) -> Writers:
    """The chosen writers. Raises UserError naming the key."""
    chosen = dict(logger)
    if chosen.get("wandb") is not None:
        options = check("logger.wandb", get_type_hints(WandbOptions), chosen["wandb"])
        for tag in options["tags"]:
            if not 1 <= len(tag) <= 64:
                raise UserError(
                    f"logger.wandb.tags: {tag!r} has {len(tag)} characters; wandb takes 1 to 64"
                )
        chosen["wandb"] = WandbOptions(**options)
    return Writers(**check("logger", get_type_hints(Writers), chosen, Writers()._asdict()))


def named_seeds(first: int, number: int) -> str:
    """The seeds of a run, for people: seed 0, or seeds 0 to 4."""
    return f"seed {first}" if number == 1 else f"seeds {first} to {first + number - 1}"


def identity_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two runs the same run: all but how long, how resumed, shown, where, what it cites.

    As JSON gives it back, so that it equals what a file of it holds.
    """
    apart = {"num_iterations", "resume", "logger", "traceback", "compilation_cache"}
    apart |= {"platform", "devices", "memory_budget", *PROCESS_KEYS}
    kept = {key: value for key, value in config.items() if key not in apart}
    return json.loads(json.dumps(_without(CITE, kept)))


def _without(name: str, tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {key: _without(name, value) for key, value in tree.items() if key != name}
