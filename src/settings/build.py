"""Building: from a checked configuration to a task source and an algorithm."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp

from bilevel.algorithm import Algorithm
from bilevel.algorithms.hypergradient_descent import hypergradient_descent
from bilevel.dynamics import compose
from bilevel.estimator import Hypergradient
from bilevel.lower_level import LowerDynamics, LowerProblem
from bilevel.proximal import proximal
from bilevel.refusals import refuse, refuse_start
from bilevel.shapes import Shapes, shapes_of
from bilevel.types import BilevelProblem, TaskSource
from src.data.contents import digest_of_data, files_of, stamp_of_files
from src.data.forms import convert, is_form
from src.data.remarks import about_noise, remarks
from src.models.precision import in_precision
from src.problems.adapting_network import Roles
from src.settings.checked import (
    Checked,
    Method,
    Monitor,
    Settings,
    Writers,
    check_config,
    named_seeds,
)
from src.settings.config import Node, about, call, misfit, takes
from src.settings.devices import Sharing, sharing_of, start_devices
from src.settings.errors import UserError
from src.settings.lower_steps import (
    dynamics_of_tests,
    lower_optimizer,
    refuse_tests_of_their_own,
)
from src.settings.placing import devices_by_process, placed
from src.settings.references import cited


class FileData(NamedTuple):
    """What was read from files that may change: the options that name them, and digests."""

    options: str  # for people: data.path=...
    stamp: str | None  # of sizes and times, from before they were read; None: not known
    digest: str  # of what they hold


class Experiment(NamedTuple):
    """Everything that a configuration is built into."""

    problem_name: str
    method: Method
    settings: Settings
    writers: Writers
    monitor: Monitor
    problem: BilevelProblem
    source: TaskSource
    dynamics: LowerDynamics
    test_dynamics: LowerDynamics
    algorithm: Algorithm
    hypergradient: Hypergradient
    sharing: Sharing
    cite: list[str]  # keys of docs/references.bib
    file_data: FileData | None  # None: the data are made, or come with a package

    def title(self) -> str:
        """What pictures of a run are headed."""
        seeds = named_seeds(self.settings.seed, self.settings.seeds)
        return f"{self.problem_name} — {self.method.name}, {seeds}"


def build(config: Mapping[str, Any]) -> Experiment:
    """Check everything, then build. Raises UserError before anything is compiled."""
    checked = check_config(config)
    settings, name = checked.settings, checked.problem_name
    start_devices(settings)
    aggregation = call(checked.node("aggregation"))
    upper_optimizer = call(checked.node("upper_optimizer"))
    problem, source, file_data = _build_problem(checked)
    of_steps = checked.node("lower_optimizer")
    optimizer = lower_optimizer(of_steps, problem)
    dynamics = compose(aggregation, optimizer)
    if settings.proximal_weight:
        try:
            problem = proximal(problem, settings.proximal_weight)
        except ValueError as error:
            raise UserError(str(error)) from error
    shapes = shapes_of(problem, source, "validation" if source.persistent else "train")
    _check_problem(name, checked.monitor, shapes)
    _check_start_and_tasks(name, settings, problem, source)
    lower = LowerProblem(problem, dynamics, settings.num_lower_steps, source.persistent)
    hypergradient = make_hypergradient(checked.node("hypergradient"), lower, shapes)
    with about(checked.node("hypergradient")):
        refuse_start(hypergradient, lower, shapes, settings.lower_start)
    # A new task has no query labels when it is adapted to, so the steps that are scored do not
    # use them; a persistent task is scored as it was trained.
    if source.persistent:
        refuse_tests_of_their_own(name, settings)
        test_dynamics = dynamics
    else:
        test_dynamics = dynamics_of_tests(optimizer, of_steps, settings, problem, aggregation)
    sharing = _sharing(settings, source.persistent)
    algorithm = hypergradient_descent(
        problem,
        dynamics,
        hypergradient,
        upper_optimizer,
        test_dynamics=test_dynamics,
        num_lower_steps=settings.num_lower_steps,
        persistent=source.persistent,
        meta_batch_size=settings.meta_batch_size,
        tasks_at_once=_tasks_at_once(settings, sharing),
        lower_start=settings.lower_start,
        shares=sharing.of_tasks(),
        task_shapes=shapes.task,
    )
    source = source._replace(data=placed(source.data, sharing, of_seeds=False))
    return Experiment(
        name,
        checked.method,
        settings,
        checked.writers,
        checked.monitor,
        problem,
        source,
        dynamics,
        test_dynamics,
        algorithm,
        hypergradient,
        sharing,
        cited(config),
        file_data,
    )


def _sharing(settings: Settings, persistent: bool) -> Sharing:
    """What the devices share out: those of this process, or of all that have joined the run."""
    own = [jax.local_devices()] if settings.coordinator is None else devices_by_process()
    there = len(own) * min(map(len, own))
    on_cpu = jax.default_backend() == "cpu"
    return sharing_of(settings, persistent, there, on_cpu, len(own))


def make_hypergradient(node: Node, lower: LowerProblem, shapes: Shapes) -> Hypergradient:
    """The estimator. Raises UserError where it is not right for the other choices."""
    hypergradient: Hypergradient = call(node)
    with about(node):
        refuse(hypergradient, lower, shapes)
    return hypergradient


def _check_problem(name: str, monitor: Monitor, shapes: Shapes) -> None:
    """Refuse variables without a gradient, objectives that are no scalars, an unknown metric."""
    objectives = {"f": shapes.lower_objective, "F": shapes.upper_objective}
    for what, tree in {"x": shapes.x, "y": shapes.y, **objectives}.items():
        for leaf in jax.tree.leaves(tree):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise UserError(
                    f"problem={name}: {what} holds {leaf.dtype}, which has no gradient; make it "
                    "floats (1.0 for 1)"
                )
            if what in objectives and leaf.shape:
                raise UserError(
                    f"problem={name}: {what} has shape {leaf.shape}, but an objective is one "
                    "number per task; take jnp.sum or jnp.mean of it"
                )
    reported = [f"validation/{score}" for score in shapes.scores]
    if monitor.metric not in reported:
        raise UserError(
            f"problem.monitor.metric={monitor.metric} is not reported; choose one of "
            f"{', '.join(reported)}"
        )


def _check_start_and_tasks(
    name: str, settings: Settings, problem: BilevelProblem, source: TaskSource
) -> None:
    """Refuse a meta-batch of one fixed task, and a warm start that would mean nothing."""
    if source.persistent and settings.meta_batch_size != 1:
        raise UserError(
            f"meta_batch_size={settings.meta_batch_size}: problem={name} is one fixed "
            "task; choose meta_batch_size=1"
        )
    if settings.lower_start == "warm" and not source.persistent:
        raise UserError(
            f"lower_start=warm: problem={name} draws new tasks each iteration, so the "
            "last y_K belongs to other tasks; choose lower_start=fixed or redrawn"
        )
    if settings.lower_start == "warm" and problem.learned_start:
        raise UserError(
            f"lower_start=warm: problem={name} learns the start y0, which a warm start "
            "never uses; choose lower_start=fixed or redrawn"
        )


def _tasks_at_once(settings: Settings, sharing: Sharing) -> int:
    """null: one on a CPU, where a task then stays in the cache; all of them on accelerators."""
    of_device, shared = settings.meta_batch_size, ""
    if sharing.what == "tasks":
        of_device //= sharing.number
        shared = f" on each of {sharing.number} devices"
    if settings.tasks_at_once is None:
        return 1 if jax.default_backend() == "cpu" else of_device
    if settings.tasks_at_once < 1 or of_device % settings.tasks_at_once:
        raise UserError(
            f"tasks_at_once={settings.tasks_at_once} must divide the {of_device} tasks{shared} of "
            f"meta_batch_size={settings.meta_batch_size}; choose tasks_at_once=null to follow "
            "the platform"
        )
    return settings.tasks_at_once


def _build_problem(checked: Checked) -> tuple[BilevelProblem, TaskSource, FileData | None]:
    """Give the problem what its factory names, and refuse what it cannot use."""
    node, method = checked.node("problem"), checked.method
    roles = Roles(lower_variable=method.lower_variable, learn_start=method.learn_start)
    if not takes(node, "roles") and roles.learn_start:
        raise UserError(
            f"method={method.name} learns the start of the lower level, but "
            f"problem={node.factory.__name__} has no start to learn; choose a method with "
            "method.learn_start=false, such as method=rhg or method=bda"
        )
    _refuse_a_head_alone(checked, roles)
    nodes = {**checked.nodes, "model": _adapting(checked.nodes["model"], roles)}
    pieces, file_data = _data_and_model(node, nodes, checked.settings)
    pieces["roles"] = roles
    extra = method.recommended.get("extra", "none")
    model = checked.nodes["model"]
    if extra != "none" and (model is None or "extra" not in model.options):
        raise UserError(
            f"method={method.name} adds {extra} to the network, and "
            f"{'there is none' if model is None else f'model={model.factory.__name__} takes none'};"
            " choose model=conv4, or leave them out with method.recommended.extra=none"
        )
    pair = call(node, **pieces)
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], BilevelProblem)):
        raise UserError(
            f"problem._target_: {node.factory.__name__} must return two things, the problem and "
            "its source of tasks: return problem, persistent_source(task)"
        )
    return *pair, file_data


def _refuse_a_head_alone(checked: Checked, roles: Roles) -> None:
    """From a head of zeros the first lower step leaves the network where it is."""
    from_zeros = checked.node("problem").options.get("head_init") == "zeros"
    if roles.learn_start == "network" and from_zeros and checked.settings.num_lower_steps == 1:
        raise UserError(
            "num_lower_steps=1 with method.learn_start=network: from a head of zeros the first "
            "lower step moves the head alone, so the network would never adapt; choose "
            "num_lower_steps=2 or more, or the same at a lower price, "
            "method.lower_variable=head method.learn_start=false (method=rhg)"
        )


def _adapting(model: Node | None, roles: Roles) -> Node | None:
    """A network that adapts has weights of its own in each task, and a native convolution of all
    tasks at once is a grouped one: by patches MAML is four times as fast (H100, docs/speed.md)."""
    if (
        model is None
        or roles.lower_variable == "head"
        or model.options.get("convolution") != "auto"
    ):
        return model
    return model._replace(options={**model.options, "convolution": "patches"})


def _data_and_model(
    problem: Node, nodes: Mapping[str, Node | None], settings: Settings
) -> tuple[dict[str, Any], FileData | None]:
    """What the problem's factory names of the two, built. Raises UserError on a misfit."""
    pieces: dict[str, Any] = {}
    file_data = None
    factory = problem.factory.__name__
    for name in ("data", "model"):
        chosen = nodes[name]
        if not takes(problem, name):
            if chosen is not None:
                raise UserError(
                    f"{name} is set, but problem={factory} uses none; choose {name}=none"
                )
            continue
        if chosen is None:
            raise UserError(
                f"{name}=none, but problem={factory} needs one: leave {name} out and the problem "
                "chooses"
            )
        reason = misfit(problem, name, chosen)
        if reason is not None:
            raise UserError(reason)
        if name == "data":
            pieces[name], file_data = loaded(chosen)
        else:
            pieces[name] = call(chosen)
        needed = get_type_hints(problem.factory)[name]
        if is_form(needed):
            with about(chosen):
                pieces[name] = convert(pieces[name], needed, split_seed_of(chosen))
            said = remarks(pieces[name], settings.dtype)
            for remark in (*said, *about_noise(pieces[name], chosen.factory, problem.options)):
                print(f"warning: data: {remark}", file=sys.stderr)
    if settings.feature_dtype is None:
        return pieces, file_data
    if "model" not in pieces:
        raise UserError(
            f"feature_dtype={settings.feature_dtype}: problem={factory} has no network "
            "whose layers could compute in it; choose feature_dtype=null"
        )
    pieces["model"] = in_precision(pieces["model"], settings.feature_dtype)
    return pieces, file_data


def split_seed_of(node: Node) -> int:
    """What shares out data that a problem needs in another form: the seed of its own split, if any.

    null, the order of the file, is one of the samples, not of classes.
    """
    return node.options.get("split_seed") or 0


def loaded(node: Node) -> tuple[Any, FileData | None]:
    """What a node of `data` gives, and what it has read from files that its options name."""
    named = files_of(node.factory, node.options)
    if not named:
        return call(node), None
    stamp = stamp_of_files(named.values())
    data = call(node)
    listed = ", ".join(f"{node.path}.{option}={value}" for option, value in named.items())
    return data, FileData(listed, stamp, digest_of_data(data))
