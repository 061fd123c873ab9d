"""What every test shares: float64, and builders of small things."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from src import predict
from src.settings.cli import compose_config, refusals_as_messages
from src.settings.config import resolve
from tests import slow_tests

ROOT = Path(__file__).resolve().parents[1]

# Two devices on any machine, so that an even number of seeds is shared out in each test.
if jax.config.values["jax_num_cpu_devices"] < 0:
    jax.config.update("jax_num_cpu_devices", 2)
jax.devices()


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory):
    """Each pytest worker compiles a program once: most of a small run is compilation."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="module", autouse=True)
def _forgotten_after_the_file():
    """Compiled programs of a file serve no other file; kept, they fill gigabytes."""
    yield
    jax.clear_caches()


# Where arrays of different ranks meet in what a file runs; everywhere else that raises.
RANKS_MEET = {"test_initialisations", "test_lower_solvers"}


@pytest.fixture(autouse=True)
def _rank_promotion_raises(request):
    name = request.module.__name__.rpartition(".")[2]
    with jax.numpy_rank_promotion("allow" if name in RANKS_MEET else "raise"):
        yield


# What takes more than about ten seconds of two cores, and has a quicker neighbour.
LONG = (
    # Whole programs, killed, stopped and continued; another of its kind is quick.
    r"test_sweeps.py::test_(a_refusal_a_divergence_and_a_kill|a_signal_ends.*SIGINT)",
    r"test_run.py::test_a_run_in_pieces_is_the_run\[few_shot-\((4|12)",
    r"test_run.py::test_rows_past_the_checkpoint_are_cut\[few_shot",
    r"test_devices.py::test_the_same_numbers_on_any_number_of_devices\[hoag",
    r"test_seeds.py::test_(in_pieces|a_stored_run)",
    r"test_hosts.py::test_(tasks_in_two_processes|no_process_waits.*disk)",
    r"test_boml.py::test_bomls_own_network_runs",
    r"test_boml.py::test_each_file_runs\[(maml_simple_version|meta_feat_small|trhg_simple_version)\]",
    r"test_evaluate.py::test_(steps_learned_one_by_one|a_learned_alpha_is_not_used|a_curve_is_the)",
    r"test_library.py::test_(every_method_moves_x|a_library_run_on_a_stream)",
    r"test_methods.py::test_bomls_twelve_combinations_run_or_are_refused\[(MF(?!TI)|MIA|MIS|MIT)",
    r"test_stored_results.py::test_what_is_stored_has_the_options_of_its_row\[1\]",
    r"test_hyper_cleaning.py::test_variants_run.*\[(model|problem.batch_size|problem.weighting=clip)",
    r"test_figures.py::test_everything_is_written",
    r"test_lower_solver_choices.py::test_hoag_on_regularisation_as_the_paper_does_it",
    r"test_initialisations.py::test_sine_curves_are_learned_far_better_than_from_scratch",
    r"test_seeds.py::test_each_seed",
    r"test_hyper_cleaning.py::test_(cleaning_beats_training|variants_run.*method=bda|both_splits.*start)",
    r"test_batch_norm.py::test_what_is_said_of_a_query_depends_on_the_others.*-conv4\]",
    r"test_batch_norm.py::test_methods_run_and_resume_bit_for_bit\[(rhg-support|maml-running)",
    r"test_iteration.py::test_groups_of_tasks_and_eager_execution_change_nothing",
    r"test_boml.py::test_the_file_with_every_key_runs_as_a_program",
    r"test_predict_models.py::test_the_fitted_model_has_the_scores_of_the_run\[options1",
    # Every pair, every estimator: the quick ones are certified on the toys and on ridge.
    r"test_gradient_is_that_of_the_target\[\w+-(few_shot|cleaning|maml|learned_start)\]",
    r"test_methods_and_problems\[\w+-(few_shot|sine|hyper_cleaning)\]",
    r"test_estimator_contract.py::test_whether_it_differentiates_through_steps\[implicit",
    r"test_tasks_together_are_the_tasks_one_by_one\[(implicit_|warp|first_order|forward|truncated|finite|one_)",
    r"test_tasks_together_are.*\[(dynamic|zeroth|recursive|stochastic|single_loop_|pessimistic)",
    r"test_hypergradients.py::test_(implicit_tends_to_unrolled|aggregation_with_alpha_zero)",
    r"test_implicit_runs.py::test_imaml_is_the_unrolled_gradient",
    r"test_initialisations.py::test_layers_of_the_upper_level_have_right.*-(?!unrolled|warp_grad)",
    r"test_pipeline.py::test_one_iteration.*\[few_shot-(?!everything|x through)",
    r"test_pipeline.py::test_a_learned_start_gets_its_gradient.*-[12]\]",
    r"test_networks.py::test_second_derivatives_by_either_convolution",
    r"test_models.py::test_(statistics_of_support_and_query_never_mix|parameter_counts_of_the_other)",
    # Tables that are made by trying every combination, and several hundred wrong command lines.
    r"test_gallery_of_regularisation.py::test_a_report_has_a_row_for_each_method",
    r"test_gallery_of_kinds.py::test_the_network_is_searched_from_many_starts",
    r"test_documents.py::test_the_certification_table_is_up_to_date",
    r"test_methods.py::test_(every_estimator_optimizer_and_law|a_cell_says_what_a_run_would_do)",
    r"test_overrides.py::test_a_wrong_value_is_refused_by_its_key",
)


def pytest_collection_modifyitems(items):
    """Mark what `make test` leaves out (slow), and what `make test-ci` does, too (long)."""
    listed = slow_tests.listed()
    for item in items:
        if item.get_closest_marker("slow") or any(re.search(p, item.nodeid) for p in LONG):
            item.add_marker(pytest.mark.long)
            item.add_marker(pytest.mark.slow)
        elif item.nodeid in listed:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """With MEASURE_CPU=1, note what each test costs (tests/slow_tests.py)."""
    began = slow_tests.cpu_seconds()
    yield
    if os.environ.get("MEASURE_CPU") == "1":
        slow_tests.MEASURED.mkdir(parents=True, exist_ok=True)
        worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
        with open(slow_tests.MEASURED / f"{worker}.tsv", "a", encoding="utf-8") as file:
            file.write(f"{slow_tests.cpu_seconds() - began:.2f}\t{item.nodeid}\n")


def config_of(*overrides: str) -> dict:
    """A resolved configuration, as `python -m src.train` would get it."""
    return resolve(compose_config(list(overrides))[0])


@pytest.fixture(scope="session")
def omniglot_folder(tmp_path_factory) -> Path:
    """A small file of the form of omniglot28.npz."""
    generator = np.random.default_rng(1)
    patterns = generator.random((30, 1, 28, 28)) < 0.2
    flips = generator.random((30, 6, 28, 28)) < 0.05
    images = np.where(patterns ^ flips, 0, 255).astype(np.uint8)
    folder = tmp_path_factory.mktemp("omniglot")
    names = np.array([f"alphabet{i // 10}/character{i % 10:02d}" for i in range(30)])
    np.savez_compressed(folder / "omniglot28.npz", images=images, characters=names)
    return folder


def small_few_shot(folder: Path) -> list[str]:
    """Overrides for a few-shot run of seconds."""
    return [
        "data=omniglot",
        f"data.root={folder}",
        "data.split_sizes=[18,6,6]",
        "model.filters=4",
        "model.num_blocks=2",
        "problem.ways=3",
        "problem.queries=4",
        "num_lower_steps=2",
        "meta_batch_size=2",
        "num_validation_tasks=4",
        "num_test_tasks=4",
        "logger=[jsonl]",
        "compilation_cache=false",
    ]


def linear_few_shot(folder: Path) -> list[str]:
    """The same with a linear network, which compiles several times faster."""
    kept = [option for option in small_few_shot(folder) if not option.startswith("model")]
    return [*kept, "model=linear", "model.num_features=3"]


# A run of a problem that is its own data, without a trace outside its folder.
QUIET = ["logger=[jsonl]", "compilation_cache=false"]

# Three iterations, with everything that happens every so often.
SHORT = ["num_iterations=3", "log_every=3", "eval_every=3", "checkpoint_every=3"]

# What differs between two runs of the same numbers.
TIMINGS = (
    "seconds",
    "iterations_per_second",
    "cpu_seconds_per_iteration",
    "peak_memory_mib",
)


def without_timings(row: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of the same numbers share: also not what was typed for them."""
    apart = (*TIMINGS, "overrides")
    return {key: value for key, value in row.items() if key not in apart}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a row that is still being written is left out."""
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """`python *arguments`, as a person would call it from the root of the repository."""
    inherited = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def command(monkeypatch, capsys):
    """`python -m src.predict *options`: what it prints, and the rows of the table."""

    def call(*options):
        monkeypatch.setattr("sys.argv", ["predict", *map(str, options)])
        predict.main()
        printed = capsys.readouterr().out.splitlines()
        with open(printed[-1], newline="", encoding="utf-8") as file:
            return printed, list(csv.DictReader(file))

    return call


def message_of(action) -> str:
    """What a person would read on stderr. Fails where nothing is refused, or with a traceback."""
    with pytest.raises(SystemExit) as stop, refusals_as_messages(traceback=False):
        action()
    message = str(stop.value.code)
    assert message.startswith("error: ")
    return message.removeprefix("error: ")


@pytest.fixture(scope="module")
def rhg(tmp_path_factory, omniglot_folder):
    """The folder of a small few-shot run whose head starts from zeros."""
    from tests.few_shot_runs import few_shot_run  # which imports this file

    chosen = "method=rhg", "model.num_features=60"
    return few_shot_run(omniglot_folder, tmp_path_factory.mktemp("rhg"), *chosen)


@pytest.fixture(scope="module")
def maml(tmp_path_factory, omniglot_folder):
    """The folder of a small few-shot run whose whole network adapts, from a learned start."""
    from tests.few_shot_runs import MLP, few_shot_run

    chosen = "method=maml", *MLP
    return few_shot_run(omniglot_folder, tmp_path_factory.mktemp("maml"), *chosen)
