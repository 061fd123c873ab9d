"""Small problems on which gradients are certified, and lower dynamics to certify them with."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel import lower_optimizers
from bilevel.aggregation import descent, lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import persistent_source, problem_from_objectives
from bilevel.lower_level import LowerDynamics, LowerProblem, Point
from bilevel.masked_sgd import masked_sgd
from bilevel.types import Array, BilevelProblem, Exact, TaskSource, Tree
from src.data.image_classes import SPLITS, ImageClasses
from src.data.labelled import LabelledImages
from src.data.synthetic_regression import synthetic_regression
from src.models.conv4 import conv4
from src.models.layers import Offset
from src.models.mlp import flat, mlp
from src.models.upper_layers import Extra
from src.problems.adapting_network import Roles
from src.problems.counterexample import counterexample
from src.problems.few_shot import few_shot
from src.problems.hyper_cleaning import hyper_cleaning
from src.problems.ridge import ridge


class Case(NamedTuple):
    """A problem, where its tasks come from, and how many of them a test takes at once."""

    problem: BilevelProblem
    source: TaskSource
    tasks: int


class Place(NamedTuple):
    """A task, and variables off any special point."""

    context: Tree
    task: Tree
    y0: Tree


class Where(NamedTuple):
    """A lower problem, and the point at which a gradient is taken."""

    lower: LowerProblem
    point: Point


def where(
    case: Case, dynamics: LowerDynamics, num_lower_steps: int, place: Place | None = None
) -> Where:
    """The case's first task, with the first parameters of these dynamics."""
    context, task, y0 = place_of(case) if place is None else place
    params = dynamics.init_params(num_lower_steps, y0)
    lower = LowerProblem(case.problem, dynamics, num_lower_steps, case.source.persistent, task)
    return Where(lower, Point(context, params, y0))


def place_of(case: Case) -> Place:
    """The case's first task, and variables off any special point."""

    def draw(key: Array) -> Place:
        data = case.source.seeded(case.source.data, key)
        tasks = case.source.sample(data, key, "train", 1)
        task = jax.tree.map(lambda leaf: leaf[0], tasks)
        x = jax.tree.map(
            lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape),
            case.problem.init_upper(key),
        )
        y0 = jax.tree.map(lambda leaf: leaf + 0.05, case.problem.init_lower(key, x))
        return Place(case.problem.prepare(x, task), task, y0)

    return jax.jit(draw)(jax.random.key(2))


def tiny_images(classes: int = 12, drawings: int = 6, size: int = 8) -> ImageClasses:
    """Random images: every class its own pattern, every drawing noisy."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (classes, 1, size, size, 1))
    noise = generator.integers(-60, 60, (classes, drawings, size, size, 1))
    images = np.clip(patterns + noise, 0, 255).astype(np.uint8)
    thirds = np.array_split(np.arange(classes), 3)
    names = tuple(f"made/{i:02d}" for i in range(classes))
    return ImageClasses(images, names, dict(zip(SPLITS, thirds, strict=True)))


def tiny_ridge() -> Case:
    data = synthetic_regression(num_rows=(12, 9, 5), num_features=4, num_relevant=3, data_seed=3)
    return Case(*ridge(data), tasks=1)


def tiny_counterexample() -> Case:
    return Case(*counterexample(dimension=3, upper_start=0.3), tasks=1)


def tiny_few_shot() -> Case:
    problem, source = few_shot(
        tiny_images(),
        conv4(filters=3, num_blocks=2),
        Roles("head", False),
        ways=3,
        shots=1,
        queries=2,
        lower_l2=0.1,
    )
    return Case(problem, source, tasks=2)


def quadratic() -> Case:
    """f = 1/2 y'Hy - y'(Cx + b), F = 1/2|y - c|^2 + 1/2|x|^2/10, y a nested tree: all closed form.

    y*(x) = H^-1 (C x + b),   dF/dx = x / 10 + C' H^-1 (y* - c)
    """
    generator = np.random.default_rng(11)
    root = generator.standard_normal((5, 5))
    hessian, coupling = jnp.asarray(root @ root.T / 5 + np.eye(5) / 2), generator.random((5, 3))
    offset, wanted = generator.standard_normal((2, 5))

    def flat(y: Tree) -> Array:
        return jnp.concatenate([y["a"], y["b"]["c"].ravel()])

    def nested(vector: Array) -> Tree:
        return {"a": vector[:3], "b": {"c": vector[3:].reshape(1, 2)}}

    def lower(x, y, task):
        del task
        return flat(y) @ (0.5 * hessian @ flat(y) - coupling @ x - offset)

    def upper(x, y, task):
        del task
        return 0.5 * jnp.sum((flat(y) - wanted) ** 2) + 0.05 * jnp.sum(x**2)

    def solution(x, task):
        del task
        return nested(jnp.linalg.solve(hessian, coupling @ x + offset))

    def hypergradient(x, task):
        distance = flat(solution(x, task)) - wanted
        return 0.1 * x + coupling.T @ jnp.linalg.solve(hessian, distance)

    problem = problem_from_objectives(
        lower,
        upper,
        init_upper=lambda key: jnp.ones(3),
        init_lower=lambda key: nested(jnp.zeros(5)),
        exact=Exact(lower_solution=solution, hypergradient=hypergradient),
    )
    return Case(problem, persistent_source({}), tasks=1)


def cleaning() -> Case:
    """Weights of samples, some of them wrongly labelled, and lower steps on mini-batches."""
    images = tiny_images(classes=9, drawings=4, size=2)
    rows = {split: images.images[images.splits[split]].reshape(12, 2, 2, 1) for split in SPLITS}
    labels = np.repeat(np.arange(3, dtype=np.int32), 4)
    problem, source = hyper_cleaning(
        LabelledImages(rows, dict.fromkeys(SPLITS, labels), 3),
        flat(),
        noise=0.5,
        pollution="exact",
        weighting="sigmoid",
        initial=0.0,
        lower_l2=0.1,
        head_init="zeros",
        batch_size=5,
        baseline="none",
    )
    return Case(problem, source, tasks=1)


def maml() -> Case:
    """Few-shot classification in which a whole (tiny) network adapts from a learned start."""
    problem, source = few_shot(
        tiny_images(size=3),
        mlp(hidden_sizes=(4,), normalise=True),
        Roles("all", True),
        ways=3,
        shots=1,
        queries=2,
        lower_l2=0.1,
    )
    return Case(problem, source, tasks=2)


def upper_layers(extra: Extra, offset: Offset = "learned") -> Case:
    """The same with a convolution, and layers (or offsets) that the upper level alone learns."""
    problem, source = few_shot(
        tiny_images(size=4),
        conv4(filters=3, num_blocks=1, extra=extra, offset=offset),
        Roles("all", True),
        ways=3,
        shots=1,
        queries=2,
    )
    return Case(problem, source, tasks=2)


def learned_start() -> Case:
    """A nested lower variable whose start is the upper variable (MAML in miniature)."""
    matrix = jnp.asarray(np.random.default_rng(5).standard_normal((3, 3)))

    def lower(x, y, task):
        residual = jnp.tanh(matrix @ y["inner"]["a"]) - y["b"] - 0.3 * x["inner"]["a"]
        return 0.5 * jnp.sum(residual**2)

    def upper(x, y, task):
        return jnp.sum(jnp.cos(y["inner"]["a"]) * y["b"]) + 0.1 * jnp.sum(x["b"] ** 2)

    def init_upper(key):
        return {
            "inner": {"a": jax.random.normal(key, (3,))},
            "b": jax.random.normal(jax.random.fold_in(key, 1), (3,)),
        }

    problem = problem_from_objectives(lower, upper, init_upper, init_lower=init_upper)
    problem = problem._replace(init_lower=lambda key, x: x, learned_start=True)
    return Case(problem, persistent_source({}), tasks=1)


CASES = {
    "ridge": tiny_ridge,
    "quadratic": quadratic,
    "counterexample": tiny_counterexample,
    "few_shot": tiny_few_shot,
    "cleaning": cleaning,
    "maml": maml,
    "t_layers": partial(upper_layers, "t_layers"),
    "warp_layers": partial(upper_layers, "warp_layers"),
    "learned_start": learned_start,
}


def lower_dynamics() -> dict[str, LowerDynamics]:
    """Aggregations and optimizers that between them touch every part of a lower step.

    Adam's eps is large: its derivative near a zero gradient is 1 / eps, which finite differences
    of a fixed step would not resolve.
    """
    everything = ("alpha", "s", "t")
    harmonic = descent(law="harmonic", alpha=0.4, s=0.8, t=1.1, learn=everything)
    constant = descent(law="constant", alpha=0.4, s=0.8, t=1.1, learn=everything)
    made = lower_optimizers
    return {
        "sgd": compose(lower_only(), made.sgd(step_size=0.1)),
        "sgd, learned": compose(lower_only(), made.sgd(step_size=0.1, learn="scalar")),
        "bda, harmonic": compose(harmonic, made.sgd(step_size=0.1, learn="per_weight")),
        "bda, constant": compose(constant, made.momentum(step_size=0.1)),
        "momentum, learned": compose(lower_only(), made.momentum(step_size=0.1, learn="scalar")),
        "adam": compose(constant, made.adam(step_size=0.1, eps=0.01)),
        "masks": compose(lower_only(), masked_sgd(step_size=0.1, mask="soft", learn="per_weight")),
        "box": compose(
            lower_only(), made.projected(step_size=0.1, set="box", lower=-0.5, upper=0.7)
        ),
        "ball": compose(constant, made.projected(step_size=0.1, set="ball", radius=0.3)),
    }
