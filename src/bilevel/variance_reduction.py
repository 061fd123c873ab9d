"""Variance reduction: directions on mini-batches whose noise falls as an iteration goes on.

A direction D is a mean over rows of f plus a mean over rows of F. D(v; B) is the same on the rows
of a step, at v = what moves. From D(v_n; B_n) a rule makes the one that is followed; where every
step sees all rows it is D(v_n) itself:

    saga    D(v_n; i, j) - T_i - T_j + mean of both tables;  then T_i, T_j = D(v_n; i, j)
    sarah   D(v_n) on all rows every `period` steps, else D_{n-1} + D(v_n; B_n) - D(v_{n-1}; B_n)
    storm   D(v_n; B_n) + (1 - eta_n) (D_{n-1} - D(v_{n-1}; B_n)),  eta_n = eta (n + 1)^-power

saga: Defazio, Bach, Lacoste-Julien, NeurIPS 2014 (arXiv 1407.0202), for bilevel problems SABA
(Dagreou et al., NeurIPS 2022, arXiv 2201.13409); sarah: Nguyen, Liu, Scheinberg, Takac, ICML 2017
(arXiv 1703.00102), for bilevel problems SRBA (Dagreou, Moreau, Vaiter, Ablin, AISTATS 2024, arXiv
2302.08766); storm: Cutkosky, Orabona, NeurIPS 2019 (arXiv 1905.10018).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from bilevel import option_checks as check
from bilevel.problem_checks import strong
from bilevel.types import BilevelProblem, Blocks, Index, Tree


class Parts(NamedTuple):
    """A direction as two means, over rows of f and over rows of F."""

    of_lower: Tree
    of_upper: Tree


class OfBlocks(NamedTuple):
    """Parts of the direction at v on a block of f and one of F, and the blocks of step k."""

    on: Callable[[Tree, Index, Index], Parts]
    of_step: Callable[[Index], tuple[Index, Index]]


class Directions(NamedTuple):
    """Parts of the direction at v on the rows of step k and on all rows.

    blocks   None where there are none: all rows are one block
    """

    on_step: Callable[[Tree, Index], Parts]
    on_all: Callable[[Tree], Parts]
    blocks: OfBlocks | None = None


class Begin(Protocol):
    def __call__(self, v: Tree, parts: Parts, blocks: Blocks | None) -> Tree:
        """The first memory, from the shapes of v and of the parts."""
        ...


class Reduce(Protocol):
    def __call__(
        self, directions: Directions, memory: Tree, v: Tree, k: Index
    ) -> tuple[Parts, Tree]:
        """The parts that are followed in step k = 1, 2, ... of the run, and the next memory."""
        ...


class VarianceReduction(NamedTuple):
    """A rule. in_blocks: whether it needs the rows in fixed blocks."""

    name: str
    formula: str
    init: Begin
    reduce: Reduce
    in_blocks: bool = False


class Tables(NamedTuple):
    """What each block gave last (leading axis: blocks of f, or of F), and the means of these."""

    tables: Parts
    means: Parts


class Before(NamedTuple):
    """v of the step before, and the parts that it followed."""

    v: Tree
    parts: Parts


def saga() -> VarianceReduction:
    """What each block gave last stands for it; memory: as many directions as there are blocks."""

    def init(v: Tree, parts: Parts, blocks: Blocks | None) -> Tables:
        numbers = (blocks.num_lower, blocks.num_upper) if blocks else (1, 1)
        tables = Parts(*(_zeros(part, (n,)) for part, n in zip(parts, numbers, strict=True)))
        return Tables(tables, Parts(*map(_zeros, parts)))

    def reduce(directions: Directions, memory: Tables, v: Tree, k: Index) -> tuple[Parts, Tables]:
        blocks = directions.blocks
        chosen = blocks.of_step(k) if blocks else (0, 0)
        fresh = blocks.on(v, *chosen) if blocks else directions.on_all(v)
        followed, tables, means = [], [], []
        for new, table, mean, i in zip(fresh, *memory, chosen, strict=True):
            number = jax.tree.leaves(table)[0].shape[0]
            change = jax.tree.map(lambda new, table, i=i: new - table[i], new, table)
            followed.append(jax.tree.map(jnp.add, change, mean))
            tables.append(jax.tree.map(lambda t, new, i=i: t.at[i].set(new), table, new))
            means.append(jax.tree.map(lambda m, c, n=number: m + c / n, mean, change))
        return Parts(*followed), Tables(Parts(*tables), Parts(*means))

    return VarianceReduction(
        "saga", "D(v; i, j) - T_i - T_j + means of the tables", init, reduce, in_blocks=True
    )


def sarah(*, period: int = 64) -> VarianceReduction:
    """All rows every `period` steps, differences between. Raises ValueError where period < 1."""
    period = check.whole_number("period", period, least=None)
    if period < 1:
        raise ValueError(f"period={period} must be at least 1, which takes all rows in every step")

    def reduce(directions: Directions, memory: Before, v: Tree, k: Index) -> tuple[Parts, Before]:
        def difference() -> Parts:
            now, before = directions.on_step(v, k), directions.on_step(memory.v, k)
            return jax.tree.map(lambda old, a, b: old + (a - b), memory.parts, now, before)

        whole = (jnp.asarray(k) - 1) % period == 0
        parts = lax.cond(whole, lambda: directions.on_all(v), difference)
        return parts, strong(Before(v, parts))

    formula = f"D(v) on all rows every {period} steps, else D + D(v; B) - D(v before; B)"
    return VarianceReduction("sarah", formula, _before, reduce)


def storm(*, momentum: float = 1.0, power: float = 2 / 3) -> VarianceReduction:
    """A moving average whose past is corrected for the step of v.

    eta_n = momentum (n + 1)^-power. Raises ValueError where momentum is outside (0, 1] or power
    outside [0, 1].
    """
    momentum = check.number("momentum", momentum)
    power = check.number("power", power)
    if not 0 < momentum <= 1:
        raise ValueError(f"momentum={momentum} is outside (0, 1], where 1 forgets the past")
    if not 0 <= power <= 1:
        raise ValueError(f"power={power} is outside [0, 1]: eta is momentum (n + 1)^-power")

    def reduce(directions: Directions, memory: Before, v: Tree, k: Index) -> tuple[Parts, Before]:
        now, before = directions.on_step(v, k), directions.on_step(memory.v, k)
        first = jnp.asarray(k) == 1
        kept = jnp.where(
            first, 0.0, 1 - momentum * jnp.asarray(k, jnp.result_type(float)) ** -power
        )
        parts = jax.tree.map(
            lambda a, b, old: a + kept.astype(a.dtype) * (old - b), now, before, memory.parts
        )
        return parts, strong(Before(v, parts))

    formula = f"D(v; B) + (1 - {momentum:g} (n + 1)^-{power:.3g}) (D - D(v before; B))"
    return VarianceReduction("storm", formula, _before, reduce)


def plain(directions: Directions, memory: Tree, v: Tree, k: Index) -> tuple[Parts, Tree]:
    """No reduction: what the rows of the step give."""
    return directions.on_step(v, k), memory


def refuse_blocks(reduction: VarianceReduction, problem: BilevelProblem) -> None:
    """Raises ValueError where the rule needs mini-batches in blocks and has others."""
    if not reduction.in_blocks or problem.mini_batch is None:
        return
    blocks = problem.blocks
    if blocks is None or not blocks.whole:
        why = "this problem's have none" if blocks is None else blocks.why_not_whole()
        raise ValueError(
            f"{reduction.name} remembers what each block of rows gave: {why}, or choose "
            "hypergradient=single_loop_sarah"
        )


def _before(v: Tree, parts: Parts, blocks: Blocks | None) -> Before:
    del blocks
    return Before(_zeros(v), Parts(*map(_zeros, parts)))


def _zeros(tree: Tree, leading: tuple[int, ...] = ()) -> Tree:
    return jax.tree.map(lambda leaf: jnp.zeros((*leading, *leaf.shape), leaf.dtype), tree)
