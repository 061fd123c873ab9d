"""The core types: NamedTuples of pure functions, one per independent choice.

    min over x of F(x, y*(x))    subject to    y*(x) in argmin over y of f(x, y)

x is the upper variable, F the upper objective; y the lower variable, f the lower objective.
Every function below is written for ONE task; `vmap` adds the meta-batch. Anything called a
`Tree` is a pytree of arrays. `task` may hold integers (labels); `context` holds only floats that
depend on x, because it is what gradients flow through.

`k` counts lower steps from 1 to K and may be traced: Array or int.
"""

import math
from collections.abc import Callable, Mapping
from enum import Flag, auto
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Tree = Any
Metrics = Mapping[str, Array]
Index = Array | int


class Objectives(Flag):
    """Which of the two objectives; `Objectives.f | Objectives.F` is any mix of both."""

    f = auto()
    F = auto()

    def __str__(self) -> str:
        return " + ".join(member.name or "" for member in type(self) if member in self)


# ---- the problem ----


class LowerObjective(Protocol):
    def __call__(self, context: Tree, task: Tree, y: Tree) -> Array:
        """f(x, y), a scalar."""
        ...


class UpperObjective(Protocol):
    def __call__(self, context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        """F(x, y), a scalar, and scalar metrics for people."""
        ...


class InitUpper(Protocol):
    def __call__(self, key: Array) -> Tree:
        """The first x."""
        ...


class InitLower(Protocol):
    def __call__(self, key: Array, x: Tree) -> Tree:
        """y0; reads x only where the start is learned."""
        ...


class Prepare(Protocol):
    def __call__(self, x: Tree, task: Tree) -> Tree:
        """The context: what of x the objectives see, computed once per task, never random."""
        ...


class Evaluate(Protocol):
    def __call__(self, x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        """Scalar scores on held-out data."""
        ...


class MiniBatch(Protocol):
    def __call__(self, context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
        """A smaller (context, task): the rows on which lower step k descends."""
        ...


class OfBlocks(Protocol):
    def __call__(self, context: Tree, task: Tree, lower: Index, upper: Index) -> tuple[Tree, Tree]:
        """The (context, task) of one block of rows of f and one of F."""
        ...


class Blocks(NamedTuple):
    """The rows of f, and those of F, in blocks of batch_size.

    at              the (context, task) of block `lower` of f and block `upper` of F
    of_step(task, k)   the blocks of step k
    """

    batch_size: int
    num_lower_rows: int
    num_upper_rows: int
    at: OfBlocks
    of_step: Callable[[Tree, Index], tuple[Index, Index]]

    @property
    def num_lower(self) -> int:
        """Number of blocks of f."""
        return self.num_lower_rows // self.batch_size

    @property
    def num_upper(self) -> int:
        """Number of blocks of F."""
        return self.num_upper_rows // self.batch_size

    @property
    def whole(self) -> bool:
        """Whether the blocks hold all rows."""
        return not (self.num_lower_rows % self.batch_size or self.num_upper_rows % self.batch_size)

    def why_not_whole(self) -> str:
        """What to say where they do not, and what to choose."""
        common = math.gcd(self.num_lower_rows, self.num_upper_rows)
        good = max(
            size for size in range(1, common + 1) if not common % size and (size <= self.batch_size)
        )
        return (
            f"batch_size={self.batch_size} must divide the {self.num_lower_rows} rows of f and the "
            f"{self.num_upper_rows} of F; choose batch_size={good}"
        )


class Projection(Protocol):
    def __call__(self, point: Tree, /) -> Tree:
        """The nearest point inside the bounds, of the same structure."""
        ...


class OfUpper(Protocol):
    def __call__(self, x: Tree, task: Tree) -> Tree:
        """A function of x for one task."""
        ...


class OfSolution(Protocol):
    def __call__(self, x: Tree, task: Tree, y: Tree) -> Tree:
        """A function of x and of the lower variable of one task."""
        ...


class OfTask(Protocol):
    def __call__(self, task: Tree) -> Tree:
        """What is the same for every x."""
        ...


class Exact(NamedTuple):
    """Closed forms of an oracle problem; None where there is none.

    lower_solution   y*(x), of the structure of y
    hypergradient    d F(x, y*(x)) / dx, of the structure of x
    upper_solution   x*
    """

    lower_solution: OfUpper | None = None
    hypergradient: OfUpper | None = None
    upper_solution: OfTask | None = None


class Constraints(Protocol):
    def __call__(self, context: Tree, task: Tree, y: Tree, /) -> Tree:
        """Arrays, or a pytree of them, feasible where no entry is above 0."""
        ...


class Penalised(NamedTuple):
    """What `constraints.with_constraints` made penalties of.

    f, F          the objectives without the squares
    constraints   g(x, y) <= 0 of the lower level
    upper         G(x, y) <= 0 of the upper level, or None
    weight        of the squares: f + weight/2 sum max(0, g)^2
    """

    f: LowerObjective
    F: UpperObjective
    constraints: Constraints
    upper: Constraints | None
    weight: float


def unchanged(point: Tree, /) -> Tree:
    """The projection onto everything."""
    return point


class BilevelProblem(NamedTuple):
    """A bilevel problem of one task.

    formulas            {"f": ..., "F": ...} for `python -m src.describe`
    exact               closed forms (oracle problems only)
    project_upper       keeps x inside its bounds, after each upper update
    project_lower       keeps y inside its bounds, after each lower step; None: it has none
    learned_start       whether init_lower reads x
    singular_hessians   which objectives (f, F, any mix of the two) are known to have a singular
                        Hessian in y
    damping             of implicit estimators, unless their option says otherwise
    mini_batch          the rows on which a lower step descends; None: always all of them
    blocks              the same rows in blocks, for methods that remember what each gave; or None
    inspect             a NamedTuple of arrays that people want to look at, or None
    predict             what a solved lower level says of the rows of its task (arrays), or None
    penalised           f and the constraints of y whose squares are a part of lower_objective, or
                        None
    """

    init_upper: InitUpper
    prepare: Prepare
    init_lower: InitLower
    lower_objective: LowerObjective
    upper_objective: UpperObjective
    evaluate: Evaluate
    formulas: Mapping[str, str]
    exact: Exact = Exact()
    project_upper: Projection = unchanged
    project_lower: Projection | None = None
    learned_start: bool = False
    singular_hessians: frozenset[Objectives] = frozenset()
    damping: float = 0.0
    mini_batch: MiniBatch | None = None
    blocks: Blocks | None = None
    inspect: OfUpper | None = None
    predict: OfSolution | None = None
    penalised: Penalised | None = None

    def rows(self, context: Tree, task: Tree, k: Index) -> tuple[Tree, Tree]:
        """(context, task) as lower step k sees them: its mini-batch, or all rows."""
        return (context, task) if self.mini_batch is None else self.mini_batch(context, task, k)


class Sample(Protocol):
    def __call__(self, data: Tree, key: Array, split: str, n: int) -> Tree:
        """n tasks of the split with a leading axis n, drawn on the device."""
        ...


class Seeded(Protocol):
    def __call__(self, data: Tree, key: Array) -> Tree:
        """The data with what the seed of a run decides (polluted labels)."""
        ...


def same_for_every_seed(data: Tree, key: Array) -> Tree:
    """The data as they are."""
    del key
    return data


class TaskSource(NamedTuple):
    """Where tasks come from.

    data         arrays on the device; runs of the command line hand them to compiled programs as an
                 argument, the functions of `bilevel` build them into the program as constants
    persistent   True for one fixed task (cleaning, counter-example), False for a stream
    has_test     whether `split="test"` is held out from all that is minimised; where it is not,
                 nothing may be called a test
    """

    data: Tree
    sample: Sample
    persistent: bool
    seeded: Seeded = same_for_every_seed
    has_test: bool = True
