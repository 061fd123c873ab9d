"""The multi-step loss: beside its sum, written with one unrolled gradient per step."""

import jax
import numpy as np
import pytest

from bilevel.aggregation import lower_only
from bilevel.dynamics import compose
from bilevel.hypergradients import multi_step, unrolled
from bilevel.lower_optimizers import sgd
from src.certification.cases import CASES, where
from src.certification.certify import estimate, flat

KEY = jax.random.key(0)
K = 4
SHARES = {
    None: [1 / 4, 1 / 4, 1 / 4, 1 / 4],
    0.4: [0.2, 0.2, 0.2, 0.4],
    1.0: [0.0, 0.0, 0.0, 1.0],
}


@pytest.mark.parametrize("last_weight", SHARES)
@pytest.mark.parametrize("case_name", ["quadratic", "maml", "learned_start"])
def test_it_is_the_weighted_sum_of_the_gradients_after_each_step(case_name, last_weight):
    dynamics = compose(lower_only(), sgd(step_size=0.1, learn="scalar"))
    case = CASES[case_name]()
    found = estimate(multi_step(last_weight=last_weight), where(case, dynamics, K), KEY)
    after = [estimate(unrolled(), where(case, dynamics, k), KEY) for k in range(1, K + 1)]
    for part, *parts in zip(found.gradient, *(one.gradient for one in after), strict=True):
        wanted = np.einsum("k,k...->...", SHARES[last_weight], [flat(one) for one in parts])
        np.testing.assert_allclose(flat(part), wanted, rtol=1e-10, atol=1e-14)
    assert found.value == pytest.approx(float(after[-1].value), rel=1e-12)
    np.testing.assert_allclose(flat(found.y), flat(after[-1].y), rtol=1e-12)


@pytest.mark.parametrize("last_weight", [None, 0.4])
def test_one_step_weighs_all(last_weight):
    at = where(CASES["maml"](), compose(lower_only(), sgd(step_size=0.1)), 1)
    found, one = (
        flat(estimate(estimator, at, KEY).gradient)
        for estimator in (multi_step(last_weight=last_weight), unrolled())
    )
    np.testing.assert_allclose(found, one, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("last_weight", [0, -0.5, 1.5, float("nan")])
def test_a_share_that_is_none(last_weight):
    with pytest.raises(
        ValueError, match=r"last_weight=.* not in \(0, 1\].*choose last_weight=null"
    ):
        multi_step(last_weight=last_weight)


@pytest.mark.parametrize("last_weight", ["half", True, [0.5]])
def test_a_share_that_is_no_number(last_weight):
    with pytest.raises(TypeError, match=r"last_weight=.* must be a number"):
        multi_step(last_weight=last_weight)
