"""MAML's family: gradients of T-layers, warp layers, masks and starts; what each preset learns."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.aggregation import lower_only
from bilevel.dynamics import compose
from bilevel.from_objectives import problem_from_objectives
from bilevel.hypergradients import (
    first_order,
    implicit,
    reptile,
    truncated,
    unrolled,
    warp_grad,
)
from bilevel.linear_solvers import cg
from bilevel.lower_level import LowerProblem, Point
from bilevel.lower_optimizers import sgd
from bilevel.masked_sgd import masked_sgd
from bilevel.proximal import proximal
from src.certification.cases import (
    CASES,
    Where,
    lower_dynamics,
    place_of,
    upper_layers,
    where,
)
from src.certification.certify import (
    default_node,
    error_against_target,
    estimate,
    flat,
    sgd_of,
    unchecked,
)
from src.problems.adapting_network import merge, split
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from src.settings.groups import names_of
from tests.conftest import QUIET, config_of, linear_few_shot, small_few_shot

K = 3
KEY = jax.random.key(0)


# Those that say of what they give the gradient, and give that of the start and of the layers that
# stay above it.
RECORDS = {name: unchecked(default_node(name)) for name in names_of("hypergradient")}
OF_START_AND_LAYERS = [
    name
    for name, record in RECORDS.items()
    if record.target is not None
    and "start" in record.differentiates
    and record.differentiates & {"context", "direct"}
]
assert {"unrolled", "truncated", "first_order"} <= {*OF_START_AND_LAYERS}
KEPT_ABOVE = {
    "t_layers": (CASES["t_layers"], {"t_weights"}),
    "warp_layers": (CASES["warp_layers"], {"warp_weights", "warp_bias"}),
    "shared offsets": (partial(upper_layers, "none", "shared"), {"batch_norm_offset"}),
}


@pytest.mark.parametrize("name", OF_START_AND_LAYERS)
@pytest.mark.parametrize("case_name", KEPT_ABOVE)
def test_layers_of_the_upper_level_have_right_gradients(case_name, name):
    case = KEPT_ABOVE[case_name][0]()
    dynamics = lower_dynamics()["sgd, learned"]
    assert error_against_target(default_node(name), case, dynamics, place_of(case)) < 1e-8


@pytest.mark.parametrize("case_name", KEPT_ABOVE)
def test_layers_of_the_upper_level_do_not_adapt(case_name):
    make_case, kinds = KEPT_ABOVE[case_name]
    at = where(make_case(), sgd_of(0.1), K)
    point = at.point
    adapting = {name for module in point.y0["network"].values() for name in module}
    assert {name for module in point.context["fixed"].values() for name in module} == kinds
    assert not adapting & kinds
    assert ("transform" in point.context) == (case_name == "t_layers")
    gradient = estimate(unrolled(), at, KEY).gradient.context
    assert all(np.any(flat(part)) for part in gradient.values())


def test_split_and_merge_are_inverse():
    weights = {"a": {"w": 1, "t": 2}, "b": {"t": 3}, "c": {"w": 4}}
    kept, taken = split(weights, frozenset({"t"}))
    assert (kept, taken) == ({"a": {"w": 1}, "c": {"w": 4}}, {"a": {"t": 2}, "b": {"t": 3}})
    assert merge(kept, taken) == weights
    assert split(weights, frozenset()) == (weights, {})


def test_a_hard_mask_is_a_mask_with_the_slope_of_a_sigmoid():
    optimizer = masked_sgd(step_size=0.5, mask="hard")
    y, direction = {"w": jnp.ones((2, 3))}, {"w": jnp.full((2, 3), 2.0)}
    logits = jnp.asarray([-1.0, 0.0, 2.0])

    def moved(logits):
        params = {"mask_logits": {"w": logits}}
        return optimizer.update(params, direction, (), y, 1, lambda y: jnp.zeros(()))[0]["w"]

    np.testing.assert_array_equal(moved(logits), [[1.0, 0.0, 0.0]] * 2)
    slope = jax.jacobian(moved)(logits)[0]
    sigmoid = jax.nn.sigmoid(logits)
    np.testing.assert_allclose(np.diag(slope), -0.5 * 2.0 * sigmoid * (1 - sigmoid), rtol=1e-12)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_masks_that_could_never_change_are_refused(value):
    with pytest.raises(ValueError, match=f"^first_logit={value} must be finite.*first_logit=0.1$"):
        masked_sgd(step_size=0.1, first_logit=value)


def test_a_mask_that_lets_all_through_is_sgd():
    case = CASES["maml"]()
    masked, plain = compose(lower_only(), masked_sgd(step_size=0.1)), sgd_of(0.1)
    outputs = [estimate(unrolled(), where(case, dynamics, K), KEY) for dynamics in (masked, plain)]
    np.testing.assert_allclose(*(flat(o.gradient.y0) for o in outputs), rtol=0, atol=1e-14)


def test_reptile_moves_the_start_towards_where_it_ends():
    case = CASES["maml"]()
    dynamics = compose(lower_only(), sgd(step_size=0.1, learn="scalar"))
    at = where(case, dynamics, K)
    found, plain = (estimate(estimator, at, KEY) for estimator in (reptile(), unrolled()))
    np.testing.assert_allclose(flat(found.y), flat(plain.y), rtol=0, atol=1e-14)
    distance = flat(at.point.y0) - flat(plain.y)
    np.testing.assert_allclose(flat(found.gradient.y0), distance, rtol=0, atol=1e-14)
    assert not np.any(flat(found.gradient.dynamics_params))


@pytest.mark.parametrize("case_name", ["maml", "warp_layers"])
def test_warp_grad_of_one_step_is_unrolled(case_name):
    case = CASES[case_name]()
    at = where(case, sgd_of(0.1), 1)
    one, other = (estimate(estimator, at, KEY) for estimator in (warp_grad(), unrolled()))
    np.testing.assert_allclose(flat(one.y), flat(other.y), atol=1e-14)
    for a, b in zip(one.gradient, other.gradient, strict=True):
        np.testing.assert_allclose(flat(a), flat(b), atol=1e-14)


def test_no_step_kept_is_first_order_maml():
    at = where(CASES["maml"](), sgd_of(0.1), K)
    fomaml, kept = (estimate(each, at, KEY) for each in (first_order(), truncated(keep_last=0)))
    np.testing.assert_allclose(flat(fomaml.gradient.y0), flat(kept.gradient.y0), atol=1e-14)


def test_imaml_has_its_closed_form_on_a_quadratic():
    """f = 1/2 y'Hy - b'y + rho/2 |y - x|^2:  g = rho (H + rho)^-1 grad F at the solution."""
    generator = np.random.default_rng(3)
    root = generator.standard_normal((4, 4))
    hessian, rho = root @ root.T / 4, 0.7
    b, c, x = generator.standard_normal((3, 4))
    plain = problem_from_objectives(
        lambda x, y, task: y @ (0.5 * hessian @ y - b),
        lambda x, y, task: 0.5 * jnp.sum((y - c) ** 2),
        init_upper=lambda key: jnp.asarray(x),
        init_lower=lambda key: jnp.zeros(4),
    )
    started = plain._replace(init_lower=lambda key, x: x, learned_start=True)
    problem = proximal(started, rho)
    dynamics = sgd_of(0.2)
    y0 = problem.init_lower(KEY, jnp.asarray(x))
    lower = LowerProblem(problem, dynamics, 2000, persistent=True, task={})
    point = Point(problem.prepare(jnp.asarray(x), {}), dynamics.init_params(1, y0), y0)
    output = estimate(implicit(solver=cg(tolerance=1e-14)), Where(lower, point), KEY)
    regular = hessian + rho * np.eye(4)
    solution = np.linalg.solve(regular, b + rho * x)
    np.testing.assert_allclose(output.y, solution, atol=1e-10)
    expected = rho * np.linalg.solve(regular, solution - c)
    np.testing.assert_allclose(output.gradient.context["centre"], expected, atol=1e-10)
    assert not np.any(output.gradient.y0)


# (method, what it learns beside the network and the head)
PRESETS = [
    ("maml", set()),
    ("fomaml", set()),
    ("anil", set()),
    ("reptile", set()),
    ("meta_sgd", {"step_size"}),
    ("maml_bda", set()),
    ("mt_net", {"mask_logits", "transform"}),
    ("warp_grad", set()),
    ("imaml", set()),
]


@pytest.mark.parametrize(("method", "learned"), PRESETS, ids=[case[0] for case in PRESETS])
def test_presets_learn_what_they_say(method, learned, omniglot_folder):
    """tests/test_conf.py runs them."""
    few = small_few_shot if method in ("mt_net", "warp_grad") else linear_few_shot
    experiment = build(config_of(*few(omniglot_folder), f"method={method}"))
    state = jax.eval_shape(experiment.algorithm.init, KEY)
    leaves = jax.tree_util.tree_leaves_with_path(state.variables)
    names = {getattr(key, "key", None) for path, _ in leaves for key in path}
    assert learned == names & {"step_size", "mask_logits", "transform", "alpha"}
    assert experiment.problem.learned_start


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (["method=imaml", "proximal_weight=0"], ["proximal_weight=1"]),
        (["method=reptile", "method.lower_variable=head"], ["method.lower_variable=all"]),
        (["method=reptile", "lower_optimizer.learn=scalar"], ["learn nothing of lower_optimizer"]),
        (["method=maml", "method.learn_start=false"], ["method.learn_start=true"]),
        (["method=mt_net", "hypergradient=implicit_cg"], ["masked units do not move"]),
    ],
)
def test_what_a_learned_start_cannot_do_is_refused(overrides, fragments, omniglot_folder):
    few = small_few_shot if overrides[0] == "method=mt_net" else linear_few_shot
    with pytest.raises(UserError) as refusal, jax.enable_x64(False):
        build(config_of(*few(omniglot_folder), *overrides))
    assert all(fragment in str(refusal.value) for fragment in fragments), refusal.value


@pytest.mark.parametrize("learn", ["scalar", "per_weight", "per_step"])
def test_a_test_with_the_initial_step_size_forgets_the_learned_one(learn, omniglot_folder):
    base = [*linear_few_shot(omniglot_folder), "method=maml", f"lower_optimizer.learn={learn}"]
    found = []
    for overrides in ([], ["test_step_size=initial"], ["lower_optimizer.learn=none"]):
        experiment = build(config_of(*base, *overrides, "dtype=float64"))
        algorithm = experiment.algorithm
        state = jax.jit(algorithm.init)(KEY)
        if "step_size" in state.variables.get("lower_optimizer", {}):
            doubled = jax.tree.map(lambda leaf: 2 * leaf, state.variables["lower_optimizer"])
            state = state._replace(variables={**state.variables, "lower_optimizer": doubled})
        tasks = experiment.source.sample(experiment.source.data, KEY, "test", 1)
        task = jax.tree.map(lambda leaf: leaf[0], tasks)
        found.append(flat(jax.jit(lambda s, t, a=algorithm: a.adapt(s, KEY, t, 2))(state, task)))
    assert np.abs(found[0] - found[2]).max() > 1e-3
    np.testing.assert_array_equal(found[1], found[2])


def test_sine_curves_are_learned_far_better_than_from_scratch(tmp_path):
    """MAML's first experiment, cut short."""
    base = ["problem=sine", *QUIET, "num_iterations=1500", "log_every=500", "dtype=float32"]
    with jax.enable_x64(False):
        trained = run(config_of(*base, "method=maml"), tmp_path / "maml")
        untrained = run(config_of(*base, "method=maml", "num_iterations=1"), tmp_path / "start")
    assert trained["test/upper_loss"] < 0.5 * untrained["test/upper_loss"]


def test_sine_refuses_no_points():
    with pytest.raises(UserError, match="shots=0 must be at least 1"):
        build(config_of("problem=sine", *QUIET, "problem.shots=0"))
