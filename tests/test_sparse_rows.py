"""A linear model of sparse rows is that of the dense ones: values, derivatives, mini-batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from src.data.labelled import SparseRows, Table
from src.problems.regularisation import regularisation
from src.running.run import run
from tests.conftest import QUIET, config_of

ROWS, FEATURES = {"train": 9, "validation": 7, "test": 5}, 6
CLASSES = {"squared": 0, "logistic": 2, "softmax": 3}


def as_sparse(dense):
    entries = [np.flatnonzero(row) for row in dense]
    most = max(map(len, entries))
    columns = np.array([np.pad(of, (0, most - len(of))) for of in entries], np.int32)
    values = np.take_along_axis(dense, columns, axis=1)
    values[np.arange(most) >= np.array(list(map(len, entries)))[:, None]] = 0
    return SparseRows(columns, values, dense.shape[1])


def tables(num_classes):
    """The same table, dense and sparse."""
    generator = np.random.default_rng(0)
    dense = {
        split: generator.standard_normal((n, FEATURES)) * generator.integers(0, 2, (n, FEATURES))
        for split, n in ROWS.items()
    }
    targets = {split: generator.standard_normal(n) for split, n in ROWS.items()}
    if num_classes:
        targets = {s: (np.arange(n) % num_classes).astype(np.int32) for s, n in ROWS.items()}
    sparse = {split: as_sparse(rows) for split, rows in dense.items()}
    return Table(dense, targets, num_classes), Table(sparse, targets, num_classes)


@pytest.mark.parametrize("loss", CLASSES)
@pytest.mark.parametrize("batch_size", [None, 4])
def test_sparse_rows_give_the_same(loss, batch_size):
    found = []
    for table in tables(CLASSES[loss]):
        problem, source = regularisation(table, loss=loss, penalty="scalar", batch_size=batch_size)
        key = jax.random.key(3)
        task = jax.tree.map(lambda leaf: leaf[0], source.sample(source.data, key, "test", 1))
        x = problem.init_upper(key)
        y = jax.random.normal(key, problem.init_lower(key, x).shape)
        if batch_size is not None:
            _, task = problem.mini_batch(x, task, 2)
        value, slope = jax.value_and_grad(problem.lower_objective, argnums=2)(x, task, y)
        curve = jax.jvp(
            lambda y, task=task, x=x, f=problem.lower_objective: jax.grad(f, argnums=2)(x, task, y),
            (y,),
            (jnp.ones_like(y),),
        )[1]
        scores = problem.evaluate(x, x, task, y)
        exact = problem.exact.hypergradient(x, task)
        found.append((value, slope, curve, scores, exact, problem.upper_objective(x, task, y)))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["hoag", "rhg"])
def test_a_run_on_sparse_rows(tmp_path, method):
    generator = np.random.default_rng(1)
    lines = [
        f"{i % 2} "
        + " ".join(f"{j}:{1 + i % 2}" for j in sorted(generator.permutation(50)[:5] + 1))
        for i in range(40)
    ]
    (tmp_path / "rows").write_text("\n".join(lines), encoding="utf-8")
    chosen = ["problem=regularisation", f"method={method}", "data=libsvm", "data.standardise=false"]
    chosen += [f"data.path={tmp_path / 'rows'}", "num_iterations=2", "num_lower_steps=3", *QUIET]
    scores = [
        run(config_of(*chosen, f"data.sparse={choice}"), tmp_path / choice)
        for choice in ("true", "false")
    ]
    for name in ("test/upper_loss", "test/accuracy"):
        assert math.isclose(scores[0][name], scores[1][name], rel_tol=1e-5)
