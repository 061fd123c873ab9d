"""A stored run tested again: the logged numbers, other states and steps, refusals."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from src import evaluate
from src.running.curvature import largest_eigenvalue
from src.running.evaluation import averaged, make_evaluate, over_tasks
from src.running.loop import initial_state, make_chunk
from src.running.run import run
from src.running.seeds import seed_keys
from src.running.stored_run import evaluate_again, read_config, stored_run, stored_state
from src.settings.build import build
from src.settings.errors import UserError
from tests.conftest import QUIET, config_of, small_few_shot

PER_STEP = ["lower_optimizer.learn=per_step"]
EVERY = ["num_iterations=6", "log_every=3", "eval_every=2", "checkpoint_every=3"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory, omniglot_folder):
    folder = tmp_path_factory.mktemp("stored")
    with jax.enable_x64(True):
        config = config_of(*small_few_shot(omniglot_folder), *EVERY)
        return folder, config, run(config, folder)


def again(folder, checkpoint="last", tasks=None, steps=None):
    with stored_run(folder, tasks) as stored:
        return evaluate_again(stored, checkpoint, steps)


def test_the_same_numbers_come_back(stored):
    folder, _, result = stored
    scored = again(folder)
    assert scored.step == (6,)
    assert scored.curve == result["adaptation"]
    for name, values in scored.curve.items():
        assert values[-1] == result[name]
        assert len(values) == 3  # K = 2, and before the first step
    best = again(folder, "best")
    assert best.step == (result["best/step"],)
    for name, values in best.curve.items():
        assert values[-1] == result[f"best/{name}"]


def test_a_run_of_another_machine_is_scored_on_this_one(stored, tmp_path):
    """What was typed for the machine of the run is no demand on that of whoever looks at it."""
    folder = shutil.copytree(stored[0], tmp_path / "run")
    path = folder / "config.json"
    there = {"platform": "tpu", "devices": 64, "memory_budget": "1MiB"}
    path.write_text(json.dumps(json.loads(path.read_text()) | there))
    assert again(folder).curve == stored[2]["adaptation"]


def test_more_steps_and_more_tasks_extend_the_curve(stored):
    folder, _, result = stored
    longer = again(folder, steps=5)
    for name, values in longer.curve.items():
        assert len(values) == 6
        np.testing.assert_allclose(values[:3], result["adaptation"][name], rtol=1e-5, atol=1e-6)
    loss = longer.curve["test/lower_loss"]
    assert loss == sorted(loss, reverse=True)
    assert again(folder, tasks=9).num_tasks == 9
    earlier = again(folder, "3")
    assert earlier.step == (3,)
    assert earlier.curve != longer.curve


def test_a_curve_is_the_mean_over_tasks_of_a_plain_loop(stored):
    """The first task by hand: adapt step by step with grad f alone, score, no vmap."""
    _, config, _ = stored
    with jax.enable_x64(False):
        experiment = build({**config, "num_test_tasks": 1, "meta_batch_size": 1})
        states = initial_state(experiment)
        curve = make_evaluate(experiment, 2, every_step=True)(states, "test", 1).means
        state = jax.tree.map(lambda leaf: leaf[0], states)
        base = jax.random.fold_in(jax.random.key(0), 2**31 - 2)
        task_key, _ = jax.random.split(jax.random.fold_in(base, 0))
        source, problem = experiment.source, experiment.problem
        task = jax.tree.map(lambda a: a[0], source.sample(source.data, task_key, "test", 1))
        x = state.variables["problem"]
        context = problem.prepare(x, task)
        y = problem.init_lower(jax.random.key(0), x)
        for step in range(3):
            expected = problem.evaluate(x, context, task, y)
            for name, value in expected.items():
                assert curve[f"test/{name}"][0, step] == pytest.approx(float(value), abs=1e-5)
            slope = jax.grad(problem.lower_objective, argnums=2)(context, task, y)
            y = jax.tree.map(lambda a, g: a - 0.1 * g, y, slope)
        assert curve["test/accuracy"][0, 0] == pytest.approx(1 / 3, abs=1e-6)


def test_the_command_writes_a_table_and_a_curve(stored, monkeypatch, capsys):
    folder, _, result = stored
    monkeypatch.setattr("sys.argv", ["evaluate", f"run={folder}", "num_lower_steps=3"])
    evaluate.main()
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(folder / "evaluations" / "last-K3-tasks4.json")
    assert [line.split()[0] for line in printed[2:6]] == ["0", "1", "2", "3"]
    assert f"{result['test/accuracy']:.5g} +- " in printed[4]
    written = json.loads((folder / "evaluations" / "last-K3-tasks4.json").read_text())
    assert len(written["curve"]["test/accuracy"]) == 4
    picture = folder / "evaluations" / "last-K3-tasks4.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run is missing"),
        (["ru=x"], "did you mean run?"),
        (["run"], "not of the form key=value"),
        (["run=/nowhere"], "no such folder"),
        (["run={}", "checkpoint=5"], "checkpoint=5 is not kept .* choose one of 3, 6"),
        (["run={}", "checkpoint=newest"], "checkpoint=newest must be last, best or an iteration"),
        (["run={}", "num_test_tasks=0"], "num_test_tasks=0 must be at least 1"),
        (["run={}", "num_test_tasks=few"], "num_test_tasks=few is not a whole number"),
        (["run={}", "num_lower_steps=0"], "num_lower_steps=0 must be at least 1"),
    ],
)
def test_refusals(arguments, message, stored, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate", *(a.format(stored[0]) for a in arguments)])
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        evaluate.main()


def test_steps_learned_one_by_one_admit_no_others(omniglot_folder, tmp_path):
    config = config_of(*small_few_shot(omniglot_folder), *EVERY, *PER_STEP, "num_iterations=3")
    result = run(config, tmp_path)
    assert again(tmp_path).curve == result["adaptation"]
    with pytest.raises(UserError, match="step_size was learned with one value for each of 2"):
        again(tmp_path, steps=3)


def test_a_learned_alpha_is_not_used_at_test_time_so_any_steps_do(omniglot_folder, tmp_path):
    learned = ["aggregation.law=per_step", "aggregation.learn=[alpha,t]", "num_iterations=3"]
    run(config_of(*small_few_shot(omniglot_folder), *EVERY, *learned), tmp_path)
    assert len(again(tmp_path, steps=4).curve["test/accuracy"]) == 5


def test_on_a_persistent_task_a_learned_alpha_per_step_is_used(tmp_path):
    learned = ["aggregation.law=per_step", "aggregation.learn=[alpha]", "num_lower_steps=3"]
    run(config_of("problem=counterexample", *QUIET, "num_iterations=3", *learned), tmp_path)
    assert again(tmp_path).num_tasks == 1
    with pytest.raises(UserError, match="alpha was learned with one value for each of 3"):
        again(tmp_path, steps=4)


def test_a_damaged_or_running_folder(stored, tmp_path):
    folder, config, _ = stored
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"holds no identity.json"):
        again(tmp_path)
    shutil.copy(folder / "identity.json", tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        again(tmp_path)
    # Looking at a run never touches its checkpoints, not even half-written ones.
    half = folder / "checkpoints" / "9.orbax-checkpoint-tmp"
    half.mkdir()
    again(folder)
    assert half.exists()
    half.rmdir()


def test_nothing_passes_through_the_host_inside_a_chunk(omniglot_folder):
    with jax.enable_x64(False):
        experiment = build(config_of(*small_few_shot(omniglot_folder)))
        state = initial_state(experiment)
        chunk = make_chunk(experiment)
        keys, first, stop = jax.device_put((seed_keys(0, 1), jnp.int32(0), jnp.int32(2)))
        arguments = (state, experiment.source.data, keys, first, stop)
        assert "callback" not in str(jax.make_jaxpr(chunk)(*arguments))
        with jax.transfer_guard("disallow"):
            state, rows = chunk(*arguments)
            jax.block_until_ready(rows)
        with (
            jax.transfer_guard("disallow"),
            pytest.raises(Exception, match="Disallowed host-to-device transfer"),
        ):
            chunk(state, experiment.source.data, keys, np.int32(0), stop)


def test_intervals_are_student_s_t():
    """Over the tasks of each seed, and over seeds."""
    values = np.random.default_rng(0).random((2, 7, 3))
    summary = over_tasks({"accuracy": values})
    for seed in range(2):
        of_seed = values[seed]
        low, high = scipy.stats.t.interval(
            0.95, 6, of_seed.mean(0), scipy.stats.sem(of_seed, axis=0)
        )
        np.testing.assert_allclose(summary.means["accuracy"][seed], of_seed.mean(0))
        np.testing.assert_allclose(summary.half_widths["accuracy"][seed], (high - low) / 2)
    assert over_tasks({"accuracy": values[:, :1]}).half_widths == {}
    of_tasks = averaged(over_tasks({"accuracy": values[:1]}), [True])
    np.testing.assert_allclose(of_tasks["accuracy_ci95"], summary.half_widths["accuracy"][0])

    seeds = np.random.default_rng(1).random((5, 1, 3))
    of_seeds = averaged(over_tasks({"accuracy": seeds}), [True, True, False, True, True])
    kept = seeds[[0, 1, 3, 4], 0]
    low, high = scipy.stats.t.interval(0.95, 3, kept.mean(0), scipy.stats.sem(kept, axis=0))
    np.testing.assert_allclose(of_seeds["accuracy"], kept.mean(0))
    np.testing.assert_allclose(of_seeds["accuracy_ci95"], (high - low) / 2)


def test_curvature_is_the_largest_eigenvalue_of_the_lower_hessian(tmp_path, monkeypatch, capsys):
    """Of ridge by numpy, the same at each step; and the other scores are as without it."""
    overrides = ["problem=ridge", "method=rhg", "num_iterations=2", *QUIET]
    run(config_of(*overrides), tmp_path)
    with stored_run(tmp_path) as ridge:
        plain, scored = (evaluate_again(ridge, "last", 3, curvature=on) for on in (False, True))
        problem, state = ridge.experiment.problem, stored_state(ridge, "last").state
        (task,) = (
            jax.tree.map(
                lambda a: a[0],
                ridge.experiment.source.sample(
                    ridge.experiment.source.data, jax.random.key(0), "test", 1
                ),
            ),
        )
        x = jax.tree.map(lambda leaf: leaf[0], state.variables["problem"])
        context = problem.prepare(x, task)
        y = problem.init_lower(jax.tree.map(lambda leaf: leaf[0], state.start), x)
        hessian = jax.hessian(lambda y: problem.lower_objective(context, task, y))(y)
    expected = np.linalg.eigvalsh(np.asarray(hessian)).max()
    found = scored.curve.pop("test/largest_eigenvalue")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert scored.curve == plain.curve
    files = []
    for more in ([], ["curvature=true"]):
        monkeypatch.setattr("sys.argv", ["evaluate", f"run={tmp_path}", "num_lower_steps=3", *more])
        evaluate.main()
        files.append(capsys.readouterr().out.splitlines()[-1])
    assert files == [
        f"{tmp_path}/evaluations/last-K3-tasks1{end}.json" for end in ("", "-curvature")
    ]
    assert ["eigenvalue" in Path(file).read_text() for file in files] == [False, True]


@pytest.mark.parametrize("eigenvalues", [[3.0, 1.0, -1.0], [-4.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
def test_the_power_method_keeps_the_sign(eigenvalues):
    def times_matrix(vector):
        return {"a": jnp.array(eigenvalues[:2]) * vector["a"], "b": eigenvalues[2] * vector["b"]}

    found = largest_eigenvalue(times_matrix, {"a": jnp.zeros(2), "b": jnp.zeros(())})
    np.testing.assert_allclose(found, max(eigenvalues, key=abs), rtol=1e-10)
