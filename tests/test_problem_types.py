"""The table of method x type of problem says what a run would do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel
from bilevel.estimate import first_estimate
from src import methods
from src.certification.problem_types import (
    FIXED,
    method_rows,
    published,
)
from src.certification.second_derivatives import second_derivatives
from src.settings.build import build
from src.settings.errors import UserError
from src.settings.groups import names_of
from tests.conftest import QUIET, config_of, linear_few_shot

EPOCHS = ["problem.batch_size=16", "problem.sampling=epochs"]
RUNS = {
    "x in f alone": ["problem=ridge"],
    "several lower solutions": ["problem=counterexample"],
    "bounds of y": ["problem=iaptt_toy"],
    "mini-batches": ["problem=quadratic", *EPOCHS],
}


SOME = ["alternating", "bda", "bome", "hoag", "kkt", "rhg", "saba", "sama", "stocbio"]
EXTRA_LAYERS = {name: ["method.recommended.extra=none"] for name in ("mt_net", "warp_grad")}


@pytest.fixture(scope="module")
def table():
    (header, *rows), reasons = method_rows()
    return {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows}, reasons


def builds(*overrides):
    try:
        with jax.enable_x64(False):
            build(config_of(*overrides, *QUIET))
    except UserError as error:
        return str(error)
    return ""


def test_every_method_has_a_row_and_every_reason_a_cell(table):
    rows, reasons = table
    assert list(rows) == names_of("method")
    cells = {cell for row in rows.values() for cell in row.values()}
    assert {f"[{n}]" for n in range(1, len(reasons) + 1)} == {c for c in cells if c[:1] == "["}


@pytest.mark.parametrize("of", RUNS)
def test_a_cell_says_what_a_run_would_do(of, table):
    rows, reasons = table
    for name, row in rows.items():
        if name not in SOME:
            continue
        why = builds(f"method={name}", *RUNS[of])
        if row[of].startswith("["):
            # What stands behind the reason in a run names its group, and the options there.
            expected = reasons[int(row[of].strip("[]")) - 1].partition(";")[0].partition(": ")
            assert (expected[2] or expected[0]) in why, (name, why)
        else:
            assert not why, name


def test_new_tasks_and_learned_starts(table, omniglot_folder):
    few_shot = linear_few_shot(omniglot_folder)
    for name, row in table[0].items():
        cell = row["new tasks"] or row["a learned start"]
        chosen = [f"method={name}", *few_shot, *EXTRA_LAYERS.get(name, [])]
        start = ["lower_start=fixed"] if cell == FIXED else []
        assert bool(builds(*chosen, *start)) == cell.startswith("["), name
        if start:
            assert "lower_start=warm" in builds(*chosen)


# ---- second derivatives ----


@jax.custom_jvp
def first_alone(residual):
    """A gradient, whose own derivative is no number."""
    return residual


@first_alone.defjvp
def _(primals, tangents):
    return primals[0], jnp.nan * tangents[0]


@jax.custom_jvp
def half_square(residual):
    return jnp.sum(residual**2) / 2


@half_square.defjvp
def _(primals, tangents):
    return half_square(*primals), jnp.sum(first_alone(primals[0]) * tangents[0])


def hypergradient_of(name, of_f, of_F, second=False):
    def f(x, y):
        return of_f(y - x)

    def F(x, y):
        return of_F(y - 1.0) + of_F(x)

    zeros = jnp.zeros(2)
    problem = bilevel.problem(f, F, upper_start=zeros, lower_start=zeros)
    method = published(name).method._replace(num_lower_steps=2)
    if second:
        return second_derivatives(problem, method)
    return first_estimate(problem, method, jnp.array([0.3, 0.4])).gradient


def plain(residual):
    return jnp.sum(residual**2) / 2


@pytest.mark.parametrize(
    "name",
    ["alternating", "bda", "bome", "darts", "f2sa", "neumann", "pbgd_gradient", "rhg", "soba"],
)
def test_second_derivatives_are_needed_where_the_table_says_so(name):
    """A second derivative that is no number makes those hypergradients no numbers, and no other."""
    assert np.isfinite(hypergradient_of(name, plain, plain)).all()
    broken = {
        "f": not np.isfinite(hypergradient_of(name, half_square, plain)).all(),
        "F": not np.isfinite(hypergradient_of(name, plain, half_square)).all(),
    }
    found = hypergradient_of(name, plain, plain, second=True)
    assert found == [of for of, is_broken in broken.items() if is_broken]


def test_the_program_prints_the_table(monkeypatch):
    rows, reasons = [["method"], ["`rhg`"], ["`bda`"]], ["one thing", "another"]
    monkeypatch.setattr("src.certification.problem_types.method_rows", lambda: (rows, reasons))
    lines = list(methods.problem_types())
    assert lines[-5:] == ["| `rhg` |", "| `bda` |", "", "1. one thing", "2. another"]
