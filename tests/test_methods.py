"""The table of combinations tells the truth, and BOML's names map onto ours.

That docs/hypergradients.md shows the table is tested in tests/test_documents.py.
"""

import math

import jax
import pytest

from bilevel.aggregation import laws_by_name
from src import methods
from src.boml.names import COMBINATIONS, options_of, overrides_of
from src.certification.certify import default_node, unchecked
from src.certification.combinations import combination_rows, estimator_rows
from src.running.run import run
from src.settings.build import build
from src.settings.errors import UserError
from src.settings.groups import names_of
from tests.conftest import QUIET, config_of, linear_few_shot, python

RECORDS = {name: unchecked(default_node(name)) for name in names_of("hypergradient")}
# Estimators that declare the same are refused alike; the last of each kind.
ONE_OF_EACH_KIND = {
    (
        record.differentiates,
        record.through_steps,
        record.needs_stationarity,
        bool(record.dropped_steps(2)),
    ): name
    for name, record in RECORDS.items()
}.values()


@pytest.fixture(scope="module")
def printed():
    return list(methods.combinations())


def test_every_estimator_optimizer_and_law_is_in_the_tables(printed):
    text = "\n".join(printed)
    for name in names_of("hypergradient"):
        assert sum(line.startswith(f"| {name} |") for line in printed) == 2
    rows, reasons = combination_rows()
    assert set(", ".join(rows[0][1:]).split(", ")) == {"lower_only", *laws_by_name()}
    for number in range(1, len(reasons) + 1):
        assert f"[{number}]" in text
    assert len(list(estimator_rows())) == len(names_of("hypergradient")) + 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("law", [None, "constant", "harmonic", "per_step"])
@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_cell_says_what_a_run_would_do(name, law, optimizer, omniglot_folder):
    rows, _ = combination_rows_once()
    column = next(i for i, text in enumerate(rows[0]) if (law or "lower_only") in text.split(", "))
    cell = next(row[column] for row in rows if row[0] == name)
    refused = cell.partition(" [")[0].removeprefix("all but ").split(", ")
    runs = cell == "all" or (cell.startswith("all but") and optimizer not in refused)
    aggregation = ["aggregation=lower_only"]
    if law is not None:
        aggregation = ["aggregation=descent", f"aggregation.law={law}", "aggregation.learn=[alpha]"]
    config = config_of(
        *linear_few_shot(omniglot_folder),
        f"hypergradient={name}",
        *aggregation,
        f"lower_optimizer={optimizer}",
    )
    try:
        with jax.enable_x64(False):
            build(config)
        built = True
    except UserError:
        built = False
    assert built == runs, cell


_rows: list = []


def combination_rows_once():
    if not _rows:
        _rows.append(combination_rows())
    return _rows[0]


@pytest.mark.parametrize("code", COMBINATIONS)
def test_bomls_twelve_combinations_run_or_are_refused(code, omniglot_folder, tmp_path):
    base = [*linear_few_shot(omniglot_folder), "num_iterations=2", "log_every=1"]
    overrides = [*base, *overrides_of(options_of(code))]
    if code == "MITI":
        with pytest.raises(UserError, match=r"would never be learned.*proximal_weight=1"):
            run(config_of(*overrides), tmp_path / "refused")
        overrides += ["proximal_weight=1"]  # iMAML
    result = run(config_of(*overrides), tmp_path / "run")
    assert math.isfinite(result["test/upper_loss"])


def test_bomls_synonyms_are_one_configuration():
    for one, other in (("MFSS", "MFTR"), ("MISS", "MITR")):
        assert overrides_of(options_of(one)) == overrides_of(options_of(other))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["method=rhg", "hypergradient=unrolled"]),
        ({"truncate_iter": 1}, ["method=trhg", "hypergradient.keep_last=1"]),
        ({"learn_lr": True}, ["lower_optimizer.learn=scalar"]),
        ({"inner_opt": "Momentum"}, ["lower_optimizer=momentum"]),
        ({"inner_method": "Aggr", "learn_st": True}, ["aggregation.learn=[s,t]"]),
        (
            {"inner_method": "Aggr", "learn_alpha_itr": True},
            ["aggregation.law=per_step", "aggregation.learn=[alpha]"],
        ),
        (
            {"method": "MetaInit", "outer_method": "Simple", "first_order": True},
            ["hypergradient=first_order", "method=fomaml"],
        ),
        ({"outer_method": "Forward"}, ["hypergradient=forward"]),
    ],
)
def test_bomls_options_become_ours(options, expected):
    found = overrides_of(options)
    assert set(expected) <= set(found)
    config_of(*found)  # composes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_metod": "Reverse"}, "did you mean outer_method"),
        ({"outer_method": "Newton"}, "outer_method=Newton is none of BOML's"),
        ({"outer_method": "Darts", "truncate_iter": 2}, "truncate_iter=2 belongs to"),
        ({"outer_method": "Reverse", "first_order": True}, "first_order=True drops"),
        ({"learn_alpha": True}, "learn_alpha=True.*choose inner_method=Aggr"),
        ({"learn_st": True}, "learn_st=True"),
    ],
)
def test_bomls_contradictions_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        overrides_of(options)


def test_methods_as_a_program(tmp_path):
    done = python("-m", "src.methods", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "which problems a method takes" in done.stdout
    done = python("-m", "src.methods", "method=bda", cwd=tmp_path)
    assert done.returncode == 1
    assert "takes no arguments" in done.stderr


# (overrides, what the message must contain): refused by what was declared or found by tracing.
RIDGE, COUNTEREXAMPLE = ["problem=ridge", *QUIET], ["problem=counterexample", *QUIET]
REFUSED = [
    ([*COUNTEREXAMPLE, "method=hoag"], ["Hessian of f in y is singular", "damping=0.1"]),
    ([*COUNTEREXAMPLE, "method=neumann"], ["aggregation.law=constant", "proximal_weight=0.1"]),
    (
        [*RIDGE, "method=bda", "hypergradient=implicit_cg"],
        ["no resting point", "aggregation.law=constant"],
    ),
    ([*RIDGE, "method=hoag", "lower_optimizer=adamw"], ["adamw's weight decay", "L2 term"]),
    (
        [*RIDGE, "method=hoag", "lower_optimizer.learn=scalar"],
        ["does not depend on it", "learn nothing of lower_optimizer"],
    ),
    ([*RIDGE, "hypergradient=first_order", "method=rhg", "hypergradient=first_order"], ["x would"]),
    (
        [*RIDGE, "method=rhg", "hypergradient=forward", "hypergradient.max_scalars=19"],
        ["hypergradient.max_scalars=19", "20", "choose hypergradient=unrolled"],
    ),
    (
        [*COUNTEREXAMPLE, "method=bda", "hypergradient=implicit_cg", "aggregation.alpha=0"],
        ["of f "],
    ),
    ([*RIDGE, "method=rhg", "+aggregation.alpha=0.3"], ["aggregation has no options"]),
    ([*RIDGE, "method=bda", "aggregation.learn=alpha"], ["write aggregation.learn=[alpha]"]),
    (
        [*RIDGE, "method=rhg", "proximal_weight=inf"],
        ["proximal_weight=inf must be a finite"],
    ),
    (
        [*RIDGE, "method=hoag", "hypergradient.damping=inf"],
        ["damping=inf must be a finite number"],
    ),
    ([*RIDGE, "method=hoag", "hypergradient.damping=-1"], ["hypergradient.damping=-1", "none"]),
    (
        [*RIDGE, "method=hoag", "hypergradient.solver.tolerance=2"],
        ["hypergradient.solver.tolerance=2"],
    ),
    ([*RIDGE, "method=hoag", "hypergradient.tolerance_decay=0"], ["tolerance_decay=0"]),
    ([*RIDGE, "method=hoag", "hypergradient.solver.max_steps=0"], ["solver.max_steps=0"]),
    ([*RIDGE, "method=hoag", "hypergradient.lower_tolerance=0"], ["lower_tolerance=0"]),
    ([*RIDGE, "method=hoag", "hypergradient.max_residual=0"], ["max_residual=0"]),
    ([*RIDGE, "method=hoag", "+hypergradient.keep_last=1"], ["hypergradient.keep_last is not a"]),
    ([*RIDGE, "method=neumann", "hypergradient.solver.num_terms=0"], ["solver.num_terms=0"]),
    (
        [*RIDGE, "method=neumann", "hypergradient.solver.step_size=0"],
        ["hypergradient.solver.step_size=0"],
    ),
    (
        [*RIDGE, "method=rhg", "hypergradient=implicit_nystrom", "hypergradient.damping=0"],
        ["hypergradient.damping=0.0", "must be positive"],
    ),
    (
        [*RIDGE, "method=rhg", "hypergradient=implicit_nystrom", "hypergradient.solver.rank=0"],
        ["hypergradient.solver.rank=0"],
    ),
    (
        [*RIDGE, "method=rhg", "hypergradient=implicit_gmres", "hypergradient.solver.restart=0"],
        ["hypergradient.solver.restart=0"],
    ),
    ([*RIDGE, "method=darts", "hypergradient.radius=0"], ["hypergradient.radius=0"]),
    ([*RIDGE, "method=rhg", "proximal_weight=-1"], ["proximal_weight=-1"]),
    (
        [*RIDGE, "lower_optimizer=projected", "lower_optimizer.set=box"],
        ["lower_optimizer.lower=None does not go with lower_optimizer.set=box"],
    ),
    (
        [*RIDGE, "method=rhg", "hypergradient.checkpoints=all"],
        ["hypergradient.checkpoints='all'", "'none', 'steps' or 'sqrt'"],
    ),
]


@pytest.mark.parametrize(
    ("overrides", "fragments"), REFUSED, ids=[" ".join(case[0][-2:]) for case in REFUSED]
)
def test_refused_before_anything_compiles(overrides, fragments):
    with pytest.raises(UserError) as refusal, jax.enable_x64(False):
        build(config_of(*overrides))
    assert all(fragment in str(refusal.value) for fragment in fragments), refusal.value


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        # A penalty on y is no part of F, which is all that alpha = 1 descends.
        (
            [
                "method=bda",
                "hypergradient=implicit_cg",
                "aggregation.law=constant",
                "aggregation.alpha=1",
                "problem.lower_l2=0.1",
            ],
            "Hessian of F in y",
        ),
        (
            ["method=hoag", "hypergradient.damping=0", "problem.head_init=xavier"],
            "damping=0.1; hyp",
        ),
        (["method=hoag", "hypergradient.damping=0"], "proximal_weight=0.1"),
    ],
)
def test_singular_classifiers_are_refused(overrides, fragment, omniglot_folder):
    with pytest.raises(UserError, match=fragment), jax.enable_x64(False):
        build(config_of(*linear_few_shot(omniglot_folder), *overrides))


def test_an_l2_term_needs_no_damping(omniglot_folder):
    small = [*linear_few_shot(omniglot_folder), "method=hoag"]
    with jax.enable_x64(False):
        for overrides, damping in (([], 1.0), (["problem.lower_l2=0.1"], 0.0)):
            experiment = build(config_of(*small, *overrides))
            algorithm, source = experiment.algorithm, experiment.source
            assert experiment.problem.damping == damping
            # Reported where there is a damping to leave out.
            state = jax.eval_shape(algorithm.init, jax.random.key(0))
            tasks = source.sample(source.data, jax.random.key(0), "train", 2)
            metrics = jax.eval_shape(algorithm.step, state, jax.random.key(0), tasks)[1]
            assert "linear_residual" in metrics
            assert ("undamped_residual" in metrics) == bool(damping)
