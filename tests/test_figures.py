"""The published table and figures: what is found equals what theory says, law by law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.shapes import one_task
from src.figures import stochastic
from src.figures.__main__ import main
from src.figures.counterexample import LAWS, closed_form, recommended, solve
from src.figures.regularisation import as_problem, lower_solution, table, texts, truth, upper_value


@pytest.mark.parametrize("law", [None, *LAWS])
def test_what_is_found_is_what_theory_says(law):
    settings = recommended() | {"num_iterations": 150}
    result = solve(settings, law)
    weights = result.weights(settings["num_lower_steps"])
    x, value = closed_form(weights, settings["lower_step_size"])
    assert result.iterates[-1] == pytest.approx(x, abs=1e-6)
    assert float(result.phi(np.float64(x))) == pytest.approx(value, rel=1e-9)
    # The closed form is a minimum of phi, not only a point of it.
    assert all(float(result.phi(np.float64(x + d))) > value for d in (-0.01, 0.01))


def test_the_known_answers():
    settings = recommended()
    rhg = closed_form(np.tile([0.0, 1.0], (40, 1)), settings["lower_step_size"])
    bda = closed_form(np.tile([0.5, 0.5], (40, 1)), settings["lower_step_size"])
    few_steps = closed_form(np.tile([0.0, 1.0], (5, 1)), 0.1)
    assert rhg == pytest.approx((0.5, 0.25), abs=1e-9)
    assert bda == pytest.approx((1.0, 0.0), abs=1e-9)
    c = 1 - 0.9**5
    assert few_steps[0] == pytest.approx(c / (1 + c**2), rel=1e-12)


def few_ways(ways):
    """Two of the ways, which compile in a few seconds."""
    return lambda num_rows: {name: ways(num_rows)[name] for name in ("saba", "hoag, all rows")}


# Optuna 2 with SQLAlchemy 1.4, which the sweeper of Hydra needs.
@pytest.mark.filterwarnings("ignore:Deprecated API features detected")
def test_everything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["figures", str(tmp_path)])
    monkeypatch.setattr("src.figures.counterexample.LAWS", ("constant", "harmonic"))
    monkeypatch.setattr("src.figures.counterexample.LARGER_K", (50,))
    monkeypatch.setattr("src.figures.__main__.SINE_ITERATIONS", 3)
    few = ("num_iterations=2", "num_lower_steps=3", "data.split_sizes=[60,40,null]")
    monkeypatch.setattr("src.figures.__main__.CLEANING_OVERRIDES", few)
    figures = "src.figures.hypergradients"
    monkeypatch.setattr(f"{figures}.names_of", lambda group: ["unrolled", "implicit_neumann"])
    for steps in ("LOWER_STEPS", "SOLVER_STEPS", "MEMORY_STEPS"):
        monkeypatch.setattr(f"{figures}.{steps}", (4, 9))
    monkeypatch.setattr("src.figures.counterexample.STEPS", (8,))
    monkeypatch.setattr("src.figures.regularisation.SECONDS", 0.2)
    monkeypatch.setattr("src.figures.regularisation.texts", lambda: table(120))
    for name, value in {"PASSES": 2, "POINTS": 2, "NUM_SEEDS": 2, "K": 1}.items():
        monkeypatch.setattr(f"src.figures.stochastic.{name}", value)
    for name in ("NUM_QUADRATICS", "NUM_TABLE_ROWS"):
        monkeypatch.setattr(f"src.figures.stochastic.{name}", 32)
    monkeypatch.setattr("src.figures.stochastic.LOWER_STEPS", (0.03,))
    monkeypatch.setattr("src.figures.stochastic.ways", few_ways(stochastic.ways))
    main()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "cleaning_trusted.png",
        "cleaning_weights.png",
        "counterexample.png",
        "hypergradients.png",
        "laws.md",
        "regularisation.png",
        "sine.png",
        "starts.png",
        "stochastic.png",
    ]
    assert (tmp_path / "laws.md").read_text().count("| harmonic |") == 1
    assert "| constant |" in capsys.readouterr().out


@pytest.mark.parametrize("start", [0.0, 4.0])
def test_from_another_start_rhg_ends_where_y2_started_and_bda_at_one(start):
    settings = recommended() | {"num_iterations": 150}
    rhg, bda = (solve(settings, law, start, start).iterates[-1] for law in (None, "constant"))
    assert rhg == pytest.approx((start + 1) / 2, abs=1e-6)
    assert bda == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("case", [table(160), texts(120, 30)], ids=lambda case: case.name)
def test_the_truth_of_regularisation_is_a_minimum_and_its_slope(case):
    """y* by a zero gradient of the library's own f; grad h by central differences."""
    mine = as_problem(case)
    x = np.linspace(-3.0, -1.0, case.num_penalties)
    value, gradient, y = truth(case, x, np.zeros(case.train["inputs"].shape[1]))
    task = one_task(mine.source, mine.source.data, jax.random.key(0), "train")
    slope = jax.grad(lambda y: mine.problem.lower_objective(jnp.asarray(x), task, y))(
        jnp.asarray(y)
    )
    assert float(jnp.abs(slope).max()) < 1e-8
    assert value == upper_value(case, y)
    for i in (0, case.num_penalties - 1):
        step = 1e-2 * np.eye(case.num_penalties)[i]
        ends = [upper_value(case, lower_solution(case, x + s, y, 1e-10)) for s in (step, -step)]
        assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=1e-3, abs=1e-7)
