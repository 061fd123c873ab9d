"""Rows that change one thing of Omniglot's 20-way 1-shot `maml`, and see what validation says."""

from src.results.intervention_rows import CENTRE, K1, MEAN_OF_PIXELS, changed_rows, lower_step

# 4,000 tasks (as-in-their-code: 16,000), one seed; the same ones in all rows but those with one
# query. Tests have 15 queries per class.
BASE = {
    "experiment": "omniglot",
    "method": "maml",
    "problem.ways": "20",
    "problem.train_queries": "5",
    "meta_batch_size": "4",
    "num_iterations": "1000",
    "eval_every": "250",
    "checkpoint_every": "500",
    "num_validation_tasks": "200",
    "num_test_tasks": "20",  # the test is not looked at
}
# As many queries as shots, in training and in tests: batch statistics of as many images.
ONE_QUERY = {
    "problem.train_queries": "1",
    "problem.queries": "1",
    "num_validation_tasks": "600",
}
SHARED = {"model.offset": "shared"}
CHANGES = {
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
}


WHOLE_NETWORK = changed_rows(
    "maml-20w", "whole_network", BASE, CHANGES, of_other_tests=("1-query", "as-in-their-code")
)
