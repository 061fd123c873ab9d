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
# The same tasks. K as in the authors' code; the weight is the method's, 2.
IMAML = {**FOMAML, "method": "imaml", "num_lower_steps": "16"}
# The same tasks; step sizes of each weight are learned, from the one that is named.
META_SGD = {**FOMAML, "method": "meta_sgd"}
# The tasks of MAML. The head alone adapts.
ANIL = {**MAML, "method": "anil"}
# As many queries as shots, in training and in tests: batch statistics of as many images.
ONE_QUERY = {
    "problem.train_queries": "1",
    "problem.queries": "1",
    "num_validation_tasks": "600",
}
SHARED = {"model.offset": "shared"}
HEAD_FROM_ZEROS = {"method.learn_start": "network"}
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
    "centre-lower-step-0.4-zero-head": {**CENTRE, **lower_step(0.4), **HEAD_FROM_ZEROS},
    "centre-lower-step-0.2-zero-head": {**CENTRE, **lower_step(0.2), **HEAD_FROM_ZEROS},
    "centre-lower-step-0.4-zero-head-fomaml": {
        **CENTRE,
        **lower_step(0.4),
        **HEAD_FROM_ZEROS,
        "method": "fomaml",
    },
    # F of every lower step.
    **{
        f"centre-lower-step-{size}-zero-head-every-step": {
            **CENTRE,
            **lower_step(size),
            **HEAD_FROM_ZEROS,
            "hypergradient": "multi_step",
        }
        for size in (0.4, 0.2)
    },
}
ONE_STEP_OF_MAML = {**K1, **lower_step(0.4)}  # in the code of MAML, 5 ways
FIVE_STEPS = lower_step(0.1)
SIZES = (0.1, 0.04, 0.01)
OF_FOMAML = {
    "base": ONE_STEP_OF_MAML,
    "maml": {**ONE_STEP_OF_MAML, "method": "maml"},  # the same with second derivatives
    "centre": {**ONE_STEP_OF_MAML, **CENTRE},
    **{f"lower-step-{size}": {**K1, **lower_step(size)} for size in SIZES},
    **{f"k-5-lower-step-{size}": lower_step(size) for size in SIZES},
    "k-5-maml": {**FIVE_STEPS, "method": "maml"},
    "k-5-centre": {**FIVE_STEPS, **CENTRE},
    "k-5-zero-head": {**FIVE_STEPS, **HEAD_FROM_ZEROS},
    "k-5-centre-zero-head": {**FIVE_STEPS, **CENTRE, **HEAD_FROM_ZEROS},
    "k-5-maml-centre-zero-head": {
        **FIVE_STEPS,
        **CENTRE,
        **HEAD_FROM_ZEROS,
        "method": "maml",
    },
}
OF_META_SGD = {
    "base": {**K1, **lower_step(0.1)},
    "centre": {**K1, **lower_step(0.1), **CENTRE},
    "lower-step-0.4": {**K1, **lower_step(0.4)},
    "centre-lower-step-0.4": {**K1, **lower_step(0.4), **CENTRE},
    "k-5-centre-zero-head": {**FIVE_STEPS, **CENTRE, **HEAD_FROM_ZEROS},
}
OF_ANIL = {
    "base": {},
    "centre": CENTRE,
    "lower-step-0.4": lower_step(0.4),
    "centre-lower-step-0.4": {**CENTRE, **lower_step(0.4)},
    "rhg-centre-lower-step-0.4": {"method": "rhg", **CENTRE, **lower_step(0.4)},  # from zeros
}
OF_IMAML = {
    "base": {},
    "centre": CENTRE,
    "lower-step-0.03": lower_step(0.03),
    "lower-step-0.03-centre": {**CENTRE, **lower_step(0.03)},
    "bounded-step": {"lower_optimizer": "bounded_sgd", "lower_optimizer.power_steps": "1"},
    "unrolled": {"hypergradient": "unrolled"},  # the derivative of the same lower steps
}
WHOLE_NETWORK = (
    *changed_rows(
        *("maml-20w", "whole_network", MAML, OF_MAML),
        of_other_tests=("1-query", "as-in-their-code"),
    ),
    *changed_rows("fomaml-5w", "whole_network", FOMAML, OF_FOMAML),
    *changed_rows("imaml-5w", "whole_network", IMAML, OF_IMAML),
    *changed_rows("meta_sgd-5w", "whole_network", META_SGD, OF_META_SGD),
    *changed_rows("anil-20w", "whole_network", ANIL, OF_ANIL),
)
