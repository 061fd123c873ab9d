"""The benchmark: its formulas count what XLA counts, and its smallest size runs."""

import json
from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flop
from benchmarks.__main__ import as_row
from benchmarks.rows import ROWS
from src.models.conv4 import conv4
from src.settings.build import build
from tests.conftest import config_of, python


def counted(function, *arguments):
    """GFLOP by XLA's own count, without what is not a product: the sizes make products dominate."""
    compiled = jax.jit(function).lower(*arguments).compile()
    return 1e-9 * compiled.cost_analysis()["flops"]


def test_formulas_of_dense_layers():
    sizes, rows = (300, 200, 100), 500
    weights = [jnp.ones(pair) for pair in pairwise(sizes)]
    inputs, direction = jnp.ones((rows, sizes[0])), [jnp.ones_like(w) for w in weights]

    def loss(weights):
        hidden = inputs
        for matrix in weights:
            hidden = jnp.tanh(hidden @ matrix)
        return jnp.mean(hidden**2)

    layers = flop.dense(rows, sizes)
    assert counted(loss, weights) == pytest.approx(sum(layers), rel=0.05)
    assert counted(jax.grad(loss), weights) == pytest.approx(flop.gradient(layers), rel=0.05)

    def step(weights):
        return sum(jnp.vdot(g, d) for g, d in zip(jax.grad(loss)(weights), direction, strict=True))

    expected = flop.gradient(layers) + flop.second_order(layers)
    # The cotangents that come from the direction alone are computed once for both of their uses.
    assert counted(jax.grad(step), weights) == pytest.approx(expected, rel=0.25)


def test_formula_of_the_network():
    model = conv4(convolution="patches")
    images = jnp.ones((5, 28, 28, 1))
    weights = model.init(jax.random.key(0), images)
    found = counted(model.apply, weights, images)
    assert found == pytest.approx(sum(flop.conv4(5)), rel=0.15)


@pytest.mark.parametrize("row", [row for rows in ROWS.values() for row in rows], ids=str)
def test_every_row_is_a_configuration(row):
    if "data=glyphs" in row.overrides:  # others need files that the benchmark makes
        build(config_of(*row.overrides, "logger=[]"))


def test_other_losses_are_said():
    row = ROWS["main"][0]
    ours = {"wall": [0.1] * 5, "cpu": [0.2] * 5, "seconds_to_first": 3.0, "peak_mib": 400.0}
    numbers = {"warm": {**ours, "losses": [1.0, 2.0]}, "cold": ours}
    numbers["torch"] = {"a": {"wall": [0.4] * 5, "losses": [1.0, 2.0]}}
    assert as_row(row, numbers, 100.0)[-2:] == ["2.5", "4.00"]
    numbers["torch"] = {"a": {"wall": [0.4] * 5, "losses": [1.0, 2.1]}}
    assert as_row(row, numbers, 100.0)[-1] == "4.00 (other losses!)"


@pytest.mark.slow
def test_the_smallest_size(tmp_path):
    out = tmp_path / "b.json"
    done = python("-m", "benchmarks", "rows=smallest", "seconds=0", f"out={out}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["rows"]["smallest"]
    assert len(found["warm"]["wall"]) >= 5
    assert found["cold"]["losses"] == found["warm"]["losses"]
    done = python("-m", "benchmarks", "rows=none")
    assert "rows=none is not known; choose some of main" in done.stderr
