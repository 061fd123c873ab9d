"""Upper optimizers against their update rules, written out by hand."""

import inspect
import itertools
import math

import numpy as np
import pytest

from bilevel import upper_optimizers

GRADIENTS = [np.array([3.0, -0.5]), np.array([1.0, 0.2]), np.array([-2.0, 0.1])]
STEP, DECAY = 0.1, 0.5


def moved(optimizer):
    x = np.array([1.0, 1.0])
    state = optimizer.init(x)
    for gradient in GRADIENTS:
        updates, state = optimizer.update(gradient, state, x)
        x = x + np.asarray(updates)
    return x


def rates():
    return [STEP / (1 + DECAY * n) for n in range(len(GRADIENTS))]


def test_sgd_with_inverse_time_decay():
    expected = 1 - sum(rate * g for rate, g in zip(rates(), GRADIENTS, strict=True))
    found = moved(upper_optimizers.sgd(step_size=STEP, decay=DECAY))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_momentum_is_heavy_ball():
    x, buffer = np.array([1.0, 1.0]), np.zeros(2)
    for rate, gradient in zip(rates(), GRADIENTS, strict=True):
        buffer = 0.7 * buffer + gradient
        x = x - rate * buffer
    found = moved(upper_optimizers.momentum(step_size=STEP, momentum=0.7, decay=DECAY))
    np.testing.assert_allclose(found, x, rtol=1e-12)


def test_adam_by_its_algorithm():
    x, m, v = np.array([1.0, 1.0]), np.zeros(2), np.zeros(2)
    for n, (rate, gradient) in enumerate(zip(rates(), GRADIENTS, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        x = x - rate * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
    found = moved(upper_optimizers.adam(step_size=STEP, decay=DECAY))
    np.testing.assert_allclose(found, x, rtol=1e-9)


def test_a_power_of_the_updates():
    sizes = [STEP * (n + 1) ** -0.6 for n in range(len(GRADIENTS))]
    expected = 1 - sum(size * g for size, g in zip(sizes, GRADIENTS, strict=True))
    found = moved(upper_optimizers.sgd(step_size=STEP, step_power=0.6))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("annealing", "shares"),
    [("linear", [1.0, 0.5, 0.0]), ("cosine", [1.0, 0.5, 0.0])],
)
def test_annealing_reaches_zero_and_rests_there(annealing, shares):
    """Over two updates; the third and all later ones move nothing."""
    options = {"annealing": annealing, "annealing_iterations": 2}
    found = moved(upper_optimizers.sgd(step_size=STEP, decay=DECAY, **options))
    steps = [share * rate for share, rate in zip(shares, rates(), strict=True)]
    expected = 1 - sum(step * g for step, g in zip(steps, GRADIENTS, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_cosine_is_not_a_line():
    sizes = []
    for annealing in ("linear", "cosine"):
        optimizer = upper_optimizers.sgd(step_size=1.0, annealing=annealing, annealing_iterations=8)
        state, x = optimizer.init(np.ones(1)), np.ones(1)
        for _ in range(3):
            update, state = optimizer.update(np.ones(1), state, x)
        sizes.append(-float(update[0]))
    np.testing.assert_allclose(sizes, [0.75, (1 + math.cos(math.pi / 4)) / 2], rtol=1e-6)


def test_clipping_by_value_then_by_norm():
    def clipped(gradient):
        gradient = np.clip(gradient, -0.4, 0.4)
        return gradient * min(1.0, 0.3 / np.linalg.norm(gradient))

    expected = 1 - STEP * sum(map(clipped, GRADIENTS))
    found = moved(upper_optimizers.sgd(step_size=STEP, clip_value=0.4, clip_norm=0.3))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


NUMBERS = ("step_size", "decay", "step_power", "clip_value", "clip_norm")
FACTORIES = [
    value
    for name, value in vars(upper_optimizers).items()
    if inspect.isfunction(value)
    and value.__module__ == upper_optimizers.__name__
    and not name.startswith("_")
]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_size", 0.0),
        ("step_size", -1.0),
        ("decay", -1.0),
        ("step_power", -0.5),
        ("clip_value", 0.0),
        ("clip_norm", -2.0),
        *itertools.product(NUMBERS, (math.inf, math.nan)),
    ],
)
def test_values_out_of_range_are_refused(factory, name, value):
    refuse(factory, name, value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"annealing": "cosine"}, "annealing_iterations=null must be at least 1"),
        ({"annealing": "linear", "annealing_iterations": 0}, "annealing_iterations=0 must be"),
        ({"annealing_iterations": 5}, "annealing_iterations=5 is of no use with annealing=none"),
    ],
)
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)
def test_annealing_that_says_too_little_or_too_much(factory, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        factory(step_size=0.1, **options)


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (upper_optimizers.momentum, "momentum"),
        *((upper_optimizers.adam, name) for name in ("b1", "b2", "eps")),
    ],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_an_option_of_one_optimizer_out_of_range_is_refused(factory, name, value):
    refuse(factory, name, value)


def refuse(factory, name, value):
    with pytest.raises(ValueError, match=f"^{name}={value} .*; choose "):
        factory(**{"step_size": 0.1, name: value})
