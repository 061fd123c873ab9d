"""`import bilevel`: starts, data, projections and metrics as people write them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel
from bilevel import methods
from bilevel.columns import COLUMNS
from tests.small_problem import RHG, F, problem

KEY = jax.random.key(0)


def drawn(key, scale=1.0):
    return scale * jax.random.normal(key, (2,))


def of_size(key, n):
    return jax.random.normal(key, (n,))


STARTS = {
    "a default": drawn,
    "an option": lambda key, *, n=2: jnp.ones(n),
    "all defaults": lambda key=None: jnp.ones(2),
    "arguments": lambda *arguments: jnp.ones(2),
    "partial": functools.partial(of_size, n=2),
}


@pytest.mark.parametrize("name", STARTS)
def test_only_x_without_a_default_is_learned(name):
    made = problem(lower_start=STARTS[name]).problem
    assert not made.learned_start
    far = made.init_lower(KEY, jnp.asarray(7.0))
    np.testing.assert_array_equal(far, made.init_lower(KEY, jnp.asarray(0.5)))
    assert problem(lower_start=lambda key, x: jnp.full(2, x)).problem.learned_start


def test_a_task_may_have_options():
    stream = bilevel.problem(
        lambda x, y, task: jnp.sum((y - x * task) ** 2),
        lambda x, y, task: jnp.sum(y**2),
        upper_start=1.0,
        lower_start=jnp.zeros(3),
        task=lambda key, n=3: jax.random.normal(key, (n,)),
    )
    assert stream.source.sample((), KEY, "train", 2)["task"].shape == (2, 3)


def of_data(data, **options):
    return bilevel.problem(
        lambda x, y, task: jnp.sum((y - x * task.astype(y.dtype)) ** 2),
        lambda x, y, task: jnp.sum((y - 1) ** 2),
        **{"upper_start": 1.0, "lower_start": jnp.zeros(3), "task": data, **options},
    )


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "float8_e4m3fn", "int4", "int8", "uint8", "bool"]
)
def test_data_may_be_of_any_type_of_numbers(dtype):
    data = jnp.ones(3, dtype)
    assert of_data(data).source.data["task"].dtype == data.dtype
    assert of_data(np.asarray(data)).source.data["task"].dtype == data.dtype


def test_data_may_be_traced():
    def value(data):
        return bilevel.hypergradient(of_data(data), methods.rhg(num_lower_steps=3), 0.5).value

    data = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.jit(value)(data), value(data), rtol=1e-6)
    assert jnp.all(jax.grad(value)(data) != 0)


@pytest.mark.parametrize(("number", "fits"), [(2**31 - 1, True), (2**31, False), (-(2**40), False)])
def test_whole_numbers_of_64_bits_do_not_wrap(number, fits):
    data = np.array([0, 1, number], np.int64)
    with jax.enable_x64(False):
        if fits:
            assert int(of_data(data).source.data["task"][2]) == number
            return
        with pytest.raises(ValueError, match=r"task holds numbers outside of int32.*cast it to fl"):
            of_data(data)
    with jax.enable_x64(True):
        assert int(of_data(data).source.data["task"][2]) == number


@pytest.mark.parametrize("name", ["project", "project_lower"])
def test_a_projection_keeps_the_type(name):
    with pytest.raises(TypeError, match=rf"{name}\(.\) is float16, but . is float"):
        of_data(jnp.ones(3), **{name: lambda point: jnp.clip(point, 0, 1).astype(jnp.float16)})


def test_y0_has_the_type_of_the_start_and_holds_floats():
    with jax.enable_x64(True):
        own = problem(lower_start=jnp.zeros(2, jnp.float64))
        found = bilevel.hypergradient(own, RHG, 0.5, y0=jnp.ones(2, jnp.float32))
        assert found.y.dtype == jnp.float64
        expected = bilevel.hypergradient(own, RHG, 0.5, y0=np.ones(2))
        np.testing.assert_array_equal(found.gradient, expected.gradient)
        with pytest.raises(TypeError, match="y0 holds int64, which has no gradient"):
            bilevel.hypergradient(own, RHG, 0.5, y0=jnp.array([0, 0]))


MIXED = {
    "rhg": (methods.rhg(), True),
    "f2sa": (methods.f2sa(), True),
    "adam": (methods.rhg(lower_optimizer=bilevel.lower_optimizers.adam(step_size=0.1)), True),
    "hoag": (methods.hoag(), False),
    "neumann": (methods.neumann(), False),
    "darts": (methods.darts(), False),
    "pzobo": (methods.pzobo(), False),
    "bounded": (
        methods.rhg(lower_optimizer=bilevel.bounded_sgd.bounded_sgd(step_size=0.1)),
        False,
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_y_of_several_types_is_refused_where_they_cannot_be_mixed(name):
    method, works = MIXED[name]

    def far(y, from_):
        return jnp.sum((y["a"] - from_) ** 2) + jnp.sum((y["b"].astype(jnp.float32) - from_) ** 2)

    mixed = bilevel.problem(
        lambda x, y: far(y, x),
        lambda x, y: far(y, 2.0),
        upper_start=jnp.ones((), jnp.float32),
        lower_start={"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros(2, jnp.bfloat16)},
    )
    if works:
        each = bilevel.minimizer(mixed, method, optax.sgd(0.1))
        jax.eval_shape(lambda key: each.step(each.init(key), key), KEY)
        return
    with pytest.raises(TypeError, match="y holds bfloat16 and float32, which hypergradient="):
        bilevel.hypergradient(mixed, method, jnp.ones((), jnp.float32))


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_a_metric_has_no_name_of_the_library(name):
    with pytest.raises(ValueError, match=f"F's metric '{name}' has the name of F, f or another"):
        problem(upper=lambda x, y, rows: (F(x, y, rows), {name: 1.0 * x}))


CONSTRAINED = {"lower_constraints": lambda x, y, rows: y - 50, "lower_start": jnp.ones(2)}
OF_METHODS = {
    "rhg": methods.rhg(),
    "hoag": methods.hoag(lower_tolerance=1e-3, damping=0.1),
    "kkt": methods.kkt(lower_tolerance=1e-3),
    "lv_hba": methods.lv_hba(),
    "iaptt": methods.iaptt(),
    "bome": methods.bome(),
    "f2sa": methods.f2sa(),
    "pbgd_gradient": methods.pbgd_gradient(),
    "bvfsm": methods.bvfsm(),
    "meha": methods.meha(),
    "soba": methods.soba(),
    "stocbio": methods.stocbio(),
    "mrbo": methods.mrbo(),
    "bda": methods.bda(learn=("alpha", "s", "t")),
    "masks": methods.rhg(
        lower_optimizer=bilevel.masked_sgd.masked_sgd(step_size=0.1, learn="scalar")
    ),
}


@pytest.mark.parametrize("name", OF_METHODS)
def test_all_that_the_library_reports_is_reserved(name):
    own = problem(
        upper=lambda x, y, rows: (F(x, y, rows) + jnp.sum(x**2), {"mine": jnp.sum(y)}),
        upper_constraints=lambda x, y, rows: x - 50,
        exact=bilevel.Exact(hypergradient=lambda x, task: x),
        **CONSTRAINED,
    )
    solver = bilevel.minimizer(own, OF_METHODS[name], optax.sgd(0.1))

    def everything(key):
        state = solver.init(key)
        columns = solver.step(state, key)[1]
        return {**columns, **solver.score(state, key, "validation")}

    reported = set(jax.eval_shape(everything, KEY))
    assert {each.removesuffix("_labels_seen") for each in reported - COLUMNS} == {"mine"}
