"""Methods on mini-batches: beside plain numpy, theory, refusals.

f and F are means of quadratics over rows in blocks; numpy is told which blocks a step drew.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import variance_reduction
from bilevel.hypergradients import recursive_momentum, single_loop, stochastic_implicit
from bilevel.lower_level import LowerProblem, Point
from bilevel.mini_batches import KEY
from src.certification.certify import flat, sgd_of
from src.problems.quadratic import quadratic

ETA, RHO, DAMPING, K = 0.05, 0.2, 0.3, 2
SIZES = {"num_lower_rows": 6, "num_upper_rows": 4, "dim_upper": 2, "dim_lower": 3}
RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=2), RNG.normal(size=3)


def blocks_of_two():
    problem, source = quadratic(**SIZES, batch_size=2, sampling="blocks")
    with jax.enable_x64(True):
        # The rows are made in float32; sums of them are not.
        data = jax.tree.map(lambda leaf: leaf.astype(np.float64), source.data)
        tasks = source.sample(data, jax.random.key(7), "", 1)
        return problem, jax.tree.map(lambda leaf: leaf[0], tasks)


PROBLEM, TASK = blocks_of_two()
LOWER = LowerProblem(PROBLEM, sgd_of(ETA), K, True, TASK)


def point_at(x, y):
    return Point(jnp.asarray(x), LOWER.dynamics.init_params(K, y), jnp.asarray(y))


# ---- numpy: means over the rows of a part ----


class Means:
    def __init__(self, part, rows):
        self.A, self.B, self.C, self.a, self.b = (
            np.asarray(TASK[part][name])[rows].mean(0) for name in "ABCab"
        )

    def gy(self, x, y):
        return self.A @ y + self.C.T @ x + self.a

    def gx(self, x, y):
        return self.B @ x + self.C @ y + self.b


def rows_of_block(block, number):
    return np.arange(2) * number + block


LOWER_BLOCKS = [Means("train", rows_of_block(i, 3)) for i in range(3)]
UPPER_BLOCKS = [Means("validation", rows_of_block(j, 2)) for j in range(2)]
WHOLE = Means("train", slice(None)), Means("validation", slice(None))


def drawn(k):
    """f and F on the blocks of step k of the run."""
    i, j = PROBLEM.blocks.of_step(TASK, k)
    return LOWER_BLOCKS[int(i)], UPPER_BLOCKS[int(j)]


def of_lower(f, x, y, q):
    return np.concatenate([f.gy(x, y), f.A @ q, f.C @ q])


def of_upper(F, x, y):
    return np.concatenate([F.gy(x, y), F.gx(x, y)])


class Saga:
    def __init__(self):
        self.tables = np.zeros((3, 8)), np.zeros((2, 5))

    def __call__(self, k, x, y, q):
        i, j = map(int, PROBLEM.blocks.of_step(TASK, k))
        new = of_lower(LOWER_BLOCKS[i], x, y, q), of_upper(UPPER_BLOCKS[j], x, y)
        followed = []
        for table, index, fresh in zip(self.tables, (i, j), new, strict=True):
            followed.append(fresh - table[index] + table.mean(0))
            table[index] = fresh
        return followed


class Recursive:
    """sarah with a period, or storm with eta."""

    def __init__(self, period=None, power=None):
        self.period, self.power, self.before, self.D = period, power, None, None

    def on(self, rows, v):
        f, F = rows
        return np.concatenate([of_lower(f, *v), of_upper(F, *v[:2])])

    def __call__(self, k, *v):
        now = self.on(drawn(k), v)
        if self.period and (k - 1) % self.period == 0:
            self.D = self.on(WHOLE, v)
        elif self.period:
            self.D = self.D + now - self.on(drawn(k), self.before)
        elif k == 1:
            self.D = now
        else:
            eta = 0.7 * k**-self.power
            self.D = now + (1 - eta) * (self.D - self.on(drawn(k), self.before))
        self.before = tuple(part.copy() for part in v)
        return self.D[:8], self.D[8:]


def loop_in_numpy(reduce, power=0.0):
    """single_loop: three iterations of K steps."""
    x, y, q, k = X, Y, np.zeros(3), 0
    for n in range(3):
        share = (n + 1) ** -power
        for _ in range(K):
            k += 1
            low, up = reduce(k, x, y, q)
            d, Hq, through, slope, direct = low[:3], low[3:6], low[6:], up[:3], up[3:]
            g = direct - through
            y, q = y - share * ETA * d, q - share * RHO * (Hq + DAMPING * q - slope)
        yield g, y
        x = x - 0.1 * g


def system_in_numpy(x, y, q, k, rho=RHO):
    """(g, q) with F on the blocks of step k, f on those of the four steps after it."""
    F = drawn(k)[1]
    for step in range(1, 4):
        q = q - rho * (drawn(k + step)[0].A @ q + DAMPING * q - F.gy(x, y))
    return F.gx(x, y) - drawn(k + 4)[0].C @ q, q


def implicit_in_numpy(warm, power=0.0):
    x, y, q, k = X, Y, np.zeros(3), 0
    for n in range(3):
        share = (n + 1) ** -power
        for _ in range(K):
            k += 1
            y = y - share * ETA * drawn(k)[0].gy(x, y)
        start, rho = (q, share * RHO) if warm else (np.zeros(3), RHO)
        g, q = system_in_numpy(x, y, start, k + 1, rho)
        k += 5
        yield g, y
        x = x - 0.1 * g


def momentum_in_numpy(power=0.0):
    x, y, n, before = X, Y, 0, None
    for iteration in range(3):
        for _ in range(K):
            n += 1

            def on(x, y, first=6 * (n - 1) + 1):
                g = system_in_numpy(x, y, np.zeros(3), first + 1)[0]
                return np.concatenate([drawn(first)[0].gy(x, y), g])

            now, eta = on(x, y), 0.7 * n**-0.5
            D = now if before is None else now + (1 - eta) * (D - on(*before))  # noqa: F821
            before = x, y
            y = y - (iteration + 1) ** -power * ETA * D[:3]
        yield D[3:], y
        x = x - 0.1 * D[3:]


STORM = variance_reduction.storm(momentum=0.7, power=0.5)
SYSTEM = {"step_size": RHO, "num_steps": 3, "damping": DAMPING}
LOOP = {"step_size": RHO, "damping": DAMPING}


def plain(k, x, y, q):
    return of_lower(drawn(k)[0], x, y, q), of_upper(drawn(k)[1], x, y)


RULES = {
    "none": (single_loop(**LOOP), lambda: loop_in_numpy(plain)),
    "falling": (single_loop(**LOOP, step_power=0.4), lambda: loop_in_numpy(plain, 0.4)),
    "saga": (
        single_loop(**LOOP, reduction=variance_reduction.saga()),
        lambda: loop_in_numpy(Saga()),
    ),
    "sarah": (
        single_loop(**LOOP, reduction=variance_reduction.sarah(period=4)),
        lambda: loop_in_numpy(Recursive(period=4)),
    ),
    "storm": (single_loop(**LOOP, reduction=STORM), lambda: loop_in_numpy(Recursive(power=0.5))),
    "stocbio": (stochastic_implicit(**SYSTEM), lambda: implicit_in_numpy(warm=False)),
    "amigo": (stochastic_implicit(**SYSTEM, warm=True), lambda: implicit_in_numpy(warm=True)),
    "mrbo": (recursive_momentum(**SYSTEM, reduction=STORM), momentum_in_numpy),
    "ttsa": (
        stochastic_implicit(**SYSTEM, step_power=0.4),
        lambda: implicit_in_numpy(warm=False, power=0.4),
    ),
    "amigo, falling": (
        stochastic_implicit(**SYSTEM, warm=True, step_power=0.4),
        lambda: implicit_in_numpy(warm=True, power=0.4),
    ),
    "mrbo, falling": (
        recursive_momentum(**SYSTEM, reduction=STORM, step_power=1 / 3),
        lambda: momentum_in_numpy(1 / 3),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_three_iterations_are_those_of_plain_numpy(name):
    estimator, in_numpy = RULES[name]
    carry, x, y = estimator.init(LOWER, jnp.asarray(Y)), X, Y
    # The key of the first iteration draws the rows of the whole run.
    keys = [TASK[KEY], *jax.random.split(jax.random.key(1), 2)]
    step = jax.jit(
        lambda key, point, carry: estimator.estimate(
            LOWER._replace(task={**TASK, KEY: key}), point, carry, key
        )
    )
    for n, (key, (g, y_next)) in enumerate(zip(keys, in_numpy(), strict=True)):
        output = step(key, point_at(x, y), carry)
        np.testing.assert_allclose(output.gradient.context, g, rtol=1e-10, err_msg=f"g, n = {n}")
        np.testing.assert_allclose(output.y, y_next, rtol=1e-10, err_msg=f"y, n = {n}")
        x, y, carry = x - 0.1 * g, output.y, output.carry


def test_one_step_of_a_system_on_mini_batches_is_unbiased():
    """The mean over all blocks of one step of q is that of all rows: rows are independent."""
    estimator = stochastic_implicit(step_size=RHO, num_steps=1, damping=DAMPING)
    one_step = LOWER._replace(num_steps=1)

    def directions(blocks):
        def those(context, task, k):
            return PROBLEM.blocks.at(context, task, *(each[k - 1] for each in blocks))

        lower = one_step._replace(problem=PROBLEM._replace(mini_batch=those))
        carry = estimator.init(lower, jnp.asarray(Y))
        return flat(estimator.estimate(lower, point_at(X, Y), carry, TASK[KEY]).gradient.context)

    # Block 0 of f for y; all choices for F, for the step of q, and for g.
    every = np.array(list(itertools.product([0], range(3), range(3), range(3), range(2))))
    f, F = every[:, :4], np.repeat(every[:, 4:], 4, axis=1)
    each = np.asarray(jax.vmap(lambda f, F: directions((f, F)))(f, F))
    y = Y - ETA * LOWER_BLOCKS[0].gy(X, Y)
    q = RHO * WHOLE[1].gy(X, y)
    np.testing.assert_allclose(each.mean(0), WHOLE[1].gx(X, y) - WHOLE[0].C @ q, rtol=1e-10)
    assert np.abs(each - each.mean(0)).max() > 0.01


@pytest.mark.parametrize("name", ["saga", "sarah", "storm"])
def test_on_all_rows_there_is_no_noise_to_take_out(name):
    whole = LOWER._replace(problem=PROBLEM._replace(mini_batch=None, blocks=None))
    carries = {key: RULES[key][0].init(whole, jnp.asarray(Y)) for key in ("none", name)}
    x, y = X, Y
    for _ in range(3):
        outputs = {
            key: RULES[key][0].estimate(whole, point_at(x, y), carry, TASK[KEY])
            for key, carry in carries.items()
        }
        plain, reduced = outputs["none"], outputs[name]
        for a, b in ((plain.gradient, reduced.gradient), (plain.y, reduced.y)):
            np.testing.assert_allclose(flat(a), flat(b), rtol=1e-10)
        carries = {key: output.carry for key, output in outputs.items()}
        x, y = x - 0.1 * plain.gradient.context, plain.y
