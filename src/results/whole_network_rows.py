"""Rows that change one thing where all of a network adapts, and see what validation says."""

from src.results.intervention_rows import CENTRE, K1, MEAN_OF_PIXELS, changed_rows, lower_step

# One seed. Tests have 15 queries per class.
SHORT = {
    "experiment": "omniglot",
    "problem.train_queries": "5",
    "num_iterations": "1000",
    "eval_every": "250",
    "checkpoint_every": "500",
    "num_test_tasks": "20",  # the test is not looked at
}
# 4,000 tasks (as-in-their-code: 16,000), the same ones in all rows but those with one query.
MAML = {
    **SHORT,
    "method": "maml",
    "problem.ways": "20",
    "meta_batch_size": "4",
    "num_validation_tasks": "200",
}
# 8,000 tasks, the same ones in all rows.
FOMAML = {
    **SHORT,
    "method": "fomaml",
    "problem.ways": "5",
    "meta_batch_size": "8",
    "num_validation_tasks": "600",
}
# As many queries as shots, in training and in tests: batch statistics of as many images.
ONE_QUERY = {
    "problem.train_queries": "1",
    "problem.queries": "1",
    "num_validation_tasks": "600",
}
SHARED = {"model.offset": "shared"}
ONE_START = {"problem.shared_start": "true"}
OF_MAML = {
    "base": {},
    "centre": CENTRE,
    "lower-step-0.4": lower_step(0.4),
    "lower-step-0.03": lower_step(0.03),
    "k-1": {**K1, **lower_step(0.4)},
    "k-1-lower-step-1.6": {**K1, **lower_step(1.6)},
    "mean-of-pixels": MEAN_OF_PIXELS,
    "shared-offset": SHARED,
    "1-query": ONE_QUERY,
    "as-in-their-code": {
        **ONE_QUERY,
        **SHARED,
        **MEAN_OF_PIXELS,
        "problem.head_init": "normal",
        "meta_batch_size": "16",
    },
    "centre-lower-step-0.4": {**CENTRE, **lower_step(0.4)},
    "centre-k-1-lower-step-1.6": {**CENTRE, **K1, **lower_step(1.6)},
    "centre-k-1-lower-step-1.6-shared-start": {
        **CENTRE,
        **K1,
        **lower_step(1.6),
        **ONE_START,
    },
    "centre-lower-step-0.4-shared-start": {**CENTRE, **lower_step(0.4), **ONE_START},
}


K1_STEP = {**K1, **lower_step(0.4)}  # of MAML's code at 5 ways
OF_FOMAML = {
    "base": K1_STEP,
    "maml": {**K1_STEP, "method": "maml"},  # the same with second derivatives
    **{f"lower-step-{size}": {**K1, **lower_step(size)} for size in (0.1, 0.04, 0.01)},
    **{f"k-5-lower-step-{size}": lower_step(size) for size in (0.1, 0.04, 0.01)},
    "centre": {**K1_STEP, **CENTRE},
    "k-5-centre": {**lower_step(0.1), **CENTRE},
    "shared-start": {**K1_STEP, **ONE_START},
    "centre-shared-start": {**K1_STEP, **CENTRE, **ONE_START},
    "k-5-shared-start": {**lower_step(0.1), **ONE_START},
    "k-5-centre-shared-start": {**lower_step(0.1), **CENTRE, **ONE_START},
}
WHOLE_NETWORK = (
    *changed_rows(
        *("maml-20w", "whole_network", MAML, OF_MAML),
        of_other_tests=("1-query", "as-in-their-code"),
    ),
    *changed_rows("fomaml-5w", "whole_network", FOMAML, OF_FOMAML),
)
