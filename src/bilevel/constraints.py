"""Constraints of either level, as squares of their violation.

    y*(x) minimises f(x, .) where g(x, y) <= 0;   x is to satisfy G(x, y*(x)) <= 0

    f + weight/2 sum max(0, g)^2               in place of f
    F + weight/2 (sum max(0, G)^2 + sum max(0, g)^2)   in place of F

g counts above too: x is to leave where no y satisfies it. Every method then sees a problem without
constraints. At a minimiser of f with multipliers lambda, whose active constraints have independent
gradients and positive multipliers, g_i ends near lambda_i / weight, not at 0, and y, h and its
gradient are off by a multiple of 1 / weight (Nocedal and Wright, Numerical Optimization, 2006,
Section 17.1). Lower steps of gradient descent must be shorter than 2 / (L + weight |grad g|^2); a
lower solver with a line search (`bilevel.lower_solvers.lbfgs`) finds its steps itself.

The problem keeps f and g apart too (`penalised`), for estimators that make the lower solution exact
(`bilevel.hypergradients.implicit_kkt`).
"""

import jax
import jax.numpy as jnp

from bilevel.types import Array, BilevelProblem, Constraints, Metrics, Penalised, Tree

LARGEST_MULTIPLIER = 100.0
PENALISED = "penalised_upper_loss"  # F with the squares of all violations


def half_squares(values: Tree) -> Array:
    """1/2 sum max(0, c)^2 over all entries."""
    leaves = jax.tree.leaves(values)
    return sum(
        (0.5 * jnp.sum(jnp.square(jnp.maximum(leaf, 0.0))) for leaf in leaves), jnp.zeros(())
    )


def violation(values: Tree) -> Array:
    """The largest entry above 0; 0 where all constraints hold."""
    leaves = [jnp.max(leaf, initial=0.0) for leaf in jax.tree.leaves(values)]
    return jnp.max(jnp.stack([jnp.zeros((), leaves[0].dtype), *leaves]))


def unmet(violation: float, weight: float) -> str:
    """What to say where constraints of the lower level are clearly not met at the end; else "".

    Penalties leave lambda / weight. Above 100 / weight, 0.1 by default, the multiplier would exceed
    100: rather the lower steps have not come near a solution, or x has no feasible y.
    """
    limit = LARGEST_MULTIPLIER / weight
    if violation <= limit:
        return ""
    return (
        f"lower_violation={violation:.3g} at the end, above {limit:g}: the constraints of the "
        "lower level are not met: its steps diverge or are too few, or no y is feasible at this x; "
        "choose lower steps shorter than 2 / (L + weight |grad g|^2), or a line search, "
        "lower_optimizer=gradient_descent lower_optimizer.acceleration=true (in Python "
        "bilevel.lower_solvers.gradient_descent(acceleration=True)), without projected bounds of y "
        "(problem.lower_bounds=penalty)"
    )


def kept_apart(problem: BilevelProblem) -> Penalised:
    """f, F and the constraints without penalties; g is empty where there are none."""
    nothing = Penalised(
        problem.lower_objective, problem.upper_objective, lambda context, task, y: (), None, 1.0
    )
    return problem.penalised or nothing


def with_constraints(
    problem: BilevelProblem,
    lower: Constraints | None,
    upper: Constraints | None,
    weight: float,
) -> BilevelProblem:
    """The problem with penalties. Its scores are those of f and F alone, and say how far each
    level is from feasible; what is logged of the training has the penalties in it. So has the score
    penalised_upper_loss: by F alone the best state would be one that is not feasible.

    lower(context, task, y) and upper(context, task, y) give arrays or pytrees of them, feasible
    where no entry is above 0; None for none. Closed forms in `exact` are those of the constrained
    problem and stay.
    """

    def lower_objective(context: Tree, task: Tree, y: Tree) -> Array:
        value = problem.lower_objective(context, task, y)
        return value if lower is None else value + weight * half_squares(lower(context, task, y))

    def upper_objective(context: Tree, task: Tree, y: Tree) -> tuple[Array, Metrics]:
        value, metrics = problem.upper_objective(context, task, y)
        for constraints in (lower, upper):
            if constraints is not None:
                value += weight * half_squares(constraints(context, task, y))
        return value, metrics

    def evaluate(x: Tree, context: Tree, task: Tree, y: Tree) -> Metrics:
        found = dict(problem.evaluate(x, context, task, y))
        found[PENALISED] = upper_objective(context, task, y)[0]
        for name, constraints in (("lower_violation", lower), ("upper_violation", upper)):
            if constraints is not None:
                found[name] = violation(constraints(context, task, y))
        return found

    if lower is None and upper is None:
        return problem
    formulas = dict(problem.formulas)
    for name, letter, constraints in (("f", "g", lower), ("F", "g", lower), ("F", "G", upper)):
        if constraints is not None and name in formulas:
            formulas[name] += f" + {weight:g}/2 sum max(0, {letter})^2"
    return problem._replace(
        lower_objective=lower_objective,
        upper_objective=upper_objective,
        evaluate=evaluate,
        formulas=formulas,
        penalised=problem.penalised
        if lower is None
        else Penalised(problem.lower_objective, problem.upper_objective, lower, upper, weight),
    )
