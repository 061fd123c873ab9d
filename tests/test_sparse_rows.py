"""A linear model of sparse rows is that of the dense ones: values, derivatives, mini-batches."""

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


@pytest.mark.parametrize(
    ("loss", "batch_size"), [("squared", None), ("logistic", 4), ("softmax", None)]
)
def test_sparse_rows_give_the_same(loss, batch_size):
    found = []
    for table in tables(CLASSES[loss]):
        problem, source = regularisation(table, loss=loss, penalty="scalar", batch_size=batch_size)
        key = jax.random.key(3)

        def everything(problem=problem, source=source, key=key):
            task = jax.tree.map(lambda leaf: leaf[0], source.sample(source.data, key, "test", 1))
            x = problem.init_upper(key)
            y = jax.random.normal(key, problem.init_lower(key, x).shape)
            batch = task if batch_size is None else problem.mini_batch(x, task, 2)[1]
            slope = jax.grad(lambda y: problem.lower_objective(x, batch, y))
            return {
                "f": problem.lower_objective(x, batch, y),
                "slope and curvature": jax.jvp(slope, (y,), (jnp.ones_like(y),)),
                "F": problem.upper_objective(x, batch, y),
                "scores": problem.evaluate(x, x, task, y),
                "exact": problem.exact.hypergradient(x, task),
            }

        found.append(jax.jit(everything)())
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_run_on_sparse_rows(tmp_path):
    generator = np.random.default_rng(1)
    lines = [
        f"{i % 2} "
        + " ".join(f"{j}:{1 - 2 * (i % 2)}" for j in sorted(generator.permutation(50)[:5] + 1))
        for i in range(40)
    ]
    (tmp_path / "rows").write_text("\n".join(lines), encoding="utf-8")
    chosen = ["problem=regularisation", "method=hoag", "data=libsvm", "data.standardise=false"]
    chosen += [f"data.path={tmp_path / 'rows'}", "data.sparse=true", *QUIET]
    result = run(config_of(*chosen, "num_iterations=2", "num_lower_steps=3"), tmp_path / "run")
    assert result["test/accuracy"] > 0.9  # the signs tell the classes
