"""`bilevel.minimize` and `minimizer`: splits, keys, metrics, buffers, steps that are too long."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import lower_optimizers, lower_solvers, methods
from bilevel.long_steps import too_long
from tests.small_problem import RHG, ROWS, f, problem

KEY = jax.random.key(1)
SGD = optax.sgd(0.1)


def test_scores_are_of_a_known_split():
    with_test, without = problem(test=ROWS), problem()
    solver = bilevel.minimizer(with_test, RHG, SGD)
    state = solver.init(KEY)
    assert float(solver.score(state, KEY, "test")["upper_loss"]) > 0
    for split in ("Test", "train"):
        with pytest.raises(ValueError, match=f"'{split}' is not known; choose 'validation' or 'te"):
            solver.score(state, KEY, split)
    solver = bilevel.minimizer(without, RHG, SGD)
    with pytest.raises(ValueError, match="'test' is not known: this problem has no data that are"):
        solver.score(state, KEY, "test")


ON_ROWS = [methods.soba(), methods.saba(), methods.srba(), methods.stocbio(), methods.mrbo()]


@pytest.mark.parametrize("method", ON_ROWS, ids=lambda method: method.name)
def test_any_kind_of_key_will_do(method):
    """A raw key is the same key; another implementation's gives one of the default."""
    solver = bilevel.minimizer(problem(batch_size=2), method, SGD)

    def twice(first, second):
        state, _ = solver.step(solver.init(first), first)
        state, metrics = solver.step(state, second)
        return metrics["upper_loss"], solver.score(state, second, "validation")["upper_loss"]

    typed, raw = (
        jax.make_jaxpr(twice)(key(1), key(2)) for key in (jax.random.key, jax.random.PRNGKey)
    )
    assert typed.out_avals == raw.out_avals
    other = jax.eval_shape(twice, *(jax.random.key(seed, impl="rbg") for seed in (1, 2)))
    assert [each.dtype for each in other] == [each.dtype for each in typed.out_avals]


def test_another_kind_of_key_gives_the_same_numbers_or_others_of_its_own():
    solver = bilevel.minimizer(problem(batch_size=2), RHG, SGD)

    def first(key):
        return float(solver.step(solver.init(key), key)[1]["upper_loss"])

    assert first(jax.random.PRNGKey(1)) == first(jax.random.key(1))
    one, two = (first(jax.random.key(seed, impl="rbg")) for seed in (1, 2))
    assert np.isfinite([one, two]).all()
    assert one != two


def test_what_is_no_key_is_refused():
    solver = bilevel.minimizer(problem(), RHG, SGD)
    with pytest.raises(TypeError, match="key must be one random key"):
        solver.init(0)
    with pytest.raises(TypeError, match="key must be one random key"):
        solver.step(solver.init(KEY), jax.random.split(KEY))


def test_a_metric_of_F_without_a_number_warns_and_the_run_goes_on():
    own = bilevel.problem(
        lambda x, y: (y - x) ** 2,
        lambda x, y: ((y - 1) ** 2, {"log_y": jnp.log(y)}),
        upper_start=-1.0,
        lower_start=0.0,
    )
    with pytest.warns(UserWarning, match="F's metric log_y became .* at iteration 1, in .* of 40"):
        found = bilevel.minimize(own, methods.rhg(), optimizer=SGD, num_iterations=40)
    assert float(found.x) == pytest.approx(1.0, abs=1e-2)


def test_a_failure_keeps_what_there_was():
    wild = methods.rhg(num_lower_steps=3, step_size=0.1)
    with pytest.raises(FloatingPointError, match="at iteration") as failed:
        bilevel.minimize(
            problem(lambda x, y, rows: f(x, y, rows) - x * jnp.sum(y**3)),
            wild,
            optimizer=optax.sgd(1e3),
            num_iterations=20,
        )
    history = vars(failed.value)["history"]
    assert np.isfinite(history["upper_loss"][0])
    assert history["upper_loss"].shape == (20,)
    assert set(vars(failed.value)["state"].variables) >= {"problem"}


@pytest.mark.parametrize("method", [RHG, methods.f2sa(), methods.pbgd()], ids=lambda m: m.name)
def test_a_step_may_reuse_its_state(method):
    x, y = jnp.asarray(0.5), jnp.zeros(2)
    own = problem(upper_start=x, lower_start=y)
    solver = bilevel.minimizer(own, method, SGD)
    state = solver.init(KEY)
    buffers = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((state, x, y))
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    assert len(set(buffers)) == len(buffers)
    jax.jit(solver.step, donate_argnums=0)(state, KEY)
    assert float(x) == 0.5
    assert not y.is_deleted()
    solver.init(KEY)


def constrained(weight=1000.0):
    """y[0] <= 1, with x drawn beyond it."""
    return bilevel.problem(
        lambda x, y: 0.5 * jnp.sum((y - x) ** 2),
        lambda x, y: 0.5 * jnp.sum((y - 2.0) ** 2),
        upper_start=jnp.array([0.5, 0.2]),
        lower_start=jnp.zeros(2),
        lower_constraints=lambda x, y: (y[0] - 1.0, -5.0 - 2 * y[1]),
        constraint_weight=weight,
    )


LENGTHS = {
    "defaults": (methods.rhg(), 1000.0, True),
    "defaults of bda": (methods.bda(), 1000.0, True),
    "momentum": (
        methods.rhg(lower_optimizer=lower_optimizers.momentum(step_size=0.1)),
        1000.0,
        True,
    ),
    "learned": (
        methods.rhg(lower_optimizer=lower_optimizers.sgd(step_size=0.1, learn="per_step")),
        1000.0,
        True,
    ),
    "just too long": (methods.rhg(step_size=0.51), 1.0, True),
    "just short enough": (methods.rhg(step_size=0.49), 1.0, False),
    "short steps": (methods.rhg(step_size=2e-4), 1000.0, False),
    "a weak penalty": (methods.rhg(), 4.0, False),
    "half of f": (methods.bda(law="constant", alpha=0.5, step_size=0.9), 1.0, False),
    "a line search": (methods.hoag(lower_optimizer=lower_solvers.lbfgs()), 1000.0, False),
    "adam": (methods.rhg(lower_optimizer=lower_optimizers.adam(step_size=0.1)), 1000.0, False),
    "multipliers": (methods.lv_hba(), 1000.0, False),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lower_steps_too_long_for_a_constraint_are_warned_of(name):
    """|grad g|^2 is 1 and 4: steps longer than 2 / (4 weight) leave the solution."""
    method, weight, warned = LENGTHS[name]
    said = too_long(*constrained(weight), method, seed=0)
    assert bool(said) == warned
    assert not warned or (f"constraint_weight={weight:g}" in said and "step_size=" in said)


def test_a_run_warns_of_such_steps():
    with pytest.warns(UserWarning, match="lower steps of size 0.1 are too long for the constr"):
        bilevel.minimize(constrained(), RHG, optimizer=optax.sgd(1e-6), num_iterations=1)
