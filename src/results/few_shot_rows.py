"""Rows of Omniglot: each cell of a paper, and the same cells with other choices."""

from typing import Any

from src.results.few_shot_cells import (
    CENTRE,
    CENTRED,
    DIFFERS,
    OF_EACH_CELL,
    TEN_SHOTS,
    THREE,
    own_options,
    reptile_options,
    row_of_cell,
)
from src.results.intervention_rows import training_ways
from src.results.row import Row

SELDOM = ("eval_every=1000", "checkpoint_every=1000")


def _changed(
    name: str,
    method: str,
    differs: str,
    *options: str,
    cell: tuple[int, int] = (5, 1),
    seeds: tuple[int, ...] = (0,),
    against: str = "",
) -> Row:
    """A cell with centred features, and with other choices than those of the method's own row."""
    row = row_of_cell(name, method, *cell, (CENTRE, *options))
    return row._replace(seeds=seeds, differs=f"{CENTRED}; {differs}", against=against)


def _cosine(
    method: str,
    says: str = "",
    *options: str,
    part: str = "",
    iterations: int = 6000,
    cell: tuple[int, int] = (5, 1),
    seeds: tuple[int, ...] = (0,),
    against: str = "",
) -> Row:
    """The same with a step of Adam that falls to 0; `part` of its name tells what else differs."""
    length = "" if iterations == 6000 else f"-{iterations}"
    seldom = SELDOM if length else ()
    count = f"{iterations:,} iterations" if length else ""
    return _changed(
        f"{method}{part}-cosine{length}",
        method,
        "; ".join(filter(None, ("Adam's step falls to 0 by a cosine", count, says))),
        *(f"num_iterations={iterations}", "num_validation_tasks=600"),
        *("upper_optimizer.annealing=cosine", f"upper_optimizer.annealing_iterations={iterations}"),
        *(*seldom, *options),
        cell=cell,
        seeds=seeds,
        against=f"omniglot-5w1s-{against}{part}-cosine{length}" if against else "",
    )


def _more_ways(
    method: str,
    test_step: str,
    *options: str,
    ways: int = 20,
    tasks: int = 2,
    queries: int | None = None,
    lower_step: float = 0.4,
    part: str = "",
    iterations: int = 6000,
    **others: Any,
) -> Row:
    """After training on tasks of more ways, `tasks` in an iteration, in place of 8 like the tests.

    queries   per class in training; None: as many as in tests
    """
    of, fewer = f"{tasks} tasks of {ways} ways", ()
    if queries is not None:
        of, fewer = f"{of} and {queries} queries per class", (f"problem.train_queries={queries}",)
    return _cosine(
        method,
        f"trained on {of} with lower step {lower_step}, tested with {test_step}",
        *(f"{key}={value}" for key, value in training_ways(ways, tasks, lower_step).items()),
        *(*fewer, f"test_step_size={test_step}", *options),
        part=f"-{ways}-ways{part}",
        iterations=iterations,
        **others,
    )


K_OF_MAML = own_options("maml", 5, 1)
ZERO_HEAD = ("problem.train_queries=5", "method.learn_start=network")
OF_OTHER_CHOICES = (
    _cosine("bda"),
    _cosine("rhg"),
    _cosine("bda", iterations=20000),
    # The step of tests was chosen on validation, with bda and 20,000 iterations.
    _more_ways("bda", "0.05", iterations=20000, seeds=THREE, against="rhg"),
    _more_ways("rhg", "0.05", iterations=20000, seeds=THREE),
    _more_ways("bda", "0.05", seeds=THREE, against="rhg"),
    _more_ways("rhg", "0.05", seeds=THREE),
    _changed(
        "bda-max-pool",
        "bda",
        "max-pool in place of the convolution's stride",
        "model.downsample=max_pool",
    ),
    _cosine("bda", cell=(20, 1)),
    _cosine("bda", cell=(20, 1), iterations=20000),
    # Three times as many classes in training as in tests, and as many queries in a batch.
    _more_ways("bda", "0.4", ways=60, queries=5, lower_step=1.2, cell=(20, 1)),
    _cosine("maml", "K = 1", *K_OF_MAML),
    _cosine("maml", "K = 5, lower step 0.1", part="-k-5"),
    _cosine("maml", "K = 5, lower step 0.1", part="-k-5", iterations=20000),
    _cosine(
        "maml",
        "K = 1 in training, 3 lower steps in tests, as in MAML's paper, recalled",
        *(*K_OF_MAML, "test_num_lower_steps=3"),
        part="-3-test-steps",
        seeds=THREE,
    ),
    # f is a mean over the support set. With 5 classes, not 20, each weighs four times as much.
    _more_ways("maml", "0.1", "num_lower_steps=1", "test_num_lower_steps=3"),
    _more_ways("maml", "0.4", "num_lower_steps=1", lower_step=1.6, part="-lower-step-1.6"),
    _more_ways(
        *("maml", "0.4", "num_lower_steps=1"),
        tasks=4,
        queries=5,
        lower_step=1.6,
        part="-4-tasks",
    ),
    # With 20 classes a first lower step moves a logit a quarter as far as with 5: 1.6 is like 0.4.
    *(
        _cosine(
            method,
            f"K = 1, lower step {said}, 4 tasks, 5 queries per class in training",
            *("num_lower_steps=1", "lower_optimizer.step_size=1.6", "meta_batch_size=4"),
            "problem.train_queries=5",
            part="-lower-step-1.6",
            cell=(20, 1),
        )
        for method, said in (("maml", "1.6"), ("fomaml", "1.6"), ("meta_sgd", "from 1.6"))
    ),
    _cosine(
        "fomaml",
        "K = 5, lower step 0.1, 5 queries per class in training; the head starts from zeros",
        *ZERO_HEAD,
        part="-k-5-zero-head",
    ),
    # Five steps of 0.4 move a logit of 20 classes as far as five of 0.1 one of 5.
    *(
        _cosine(
            method,
            "K = 5, lower step 0.4, 4 tasks, 5 queries per class in training; the head starts "
            "from zeros",
            *("lower_optimizer.step_size=0.4", "meta_batch_size=4", *SELDOM, *ZERO_HEAD),
            part="-k-5-zero-head",
            cell=(20, 1),
        )
        for method in ("fomaml", "maml")
    ),
    _cosine(
        "maml",
        "F of every lower step; K = 5, lower step 0.4, 4 tasks, 5 queries per class in training; "
        "the head starts from zeros",
        *("lower_optimizer.step_size=0.4", "meta_batch_size=4", *SELDOM, *ZERO_HEAD),
        "hypergradient=multi_step",
        part="-k-5-zero-head-every-step",
        cell=(20, 1),
    ),
    _cosine(
        "maml",
        "K = 5, lower step 0.2, 4 tasks, 5 queries per class in training; the head starts from "
        "zeros",
        *("lower_optimizer.step_size=0.2", "meta_batch_size=4", *SELDOM, *ZERO_HEAD),
        part="-k-5-zero-head-lower-step-0.2",
        cell=(20, 1),
    ),
    _cosine(
        "fomaml",
        "K = 5, lower step 0.1, 5 queries per class in training; the head starts from zeros",
        *(*SELDOM, *ZERO_HEAD),
        part="-k-5-zero-head",
        cell=(5, 5),
    ),
    _cosine(
        "imaml",
        "lower steps of 0.03, 5 queries per class in training",
        *(*own_options("imaml", 5, 1), "lower_optimizer.step_size=0.03"),
        *("problem.train_queries=5", *SELDOM),
        part="-lower-step-0.03",
    ),
    row_of_cell("mt_net-k-5", "mt_net", 5, 1, ())._replace(differs="K = 5, lower step 0.1"),
    row_of_cell("reptile-ten-shots", "reptile", 5, 1, reptile_options(*TEN_SHOTS))._replace(
        differs="K = 5, two of ten shots in a step, 50 lower steps in tests"
    ),
    row_of_cell(
        "reptile-ten-shots-20000",
        *("reptile", 5, 1, (*reptile_options(*TEN_SHOTS, 20000), *SELDOM)),
    )._replace(
        differs="K = 5, two of ten shots in a step, 50 lower steps in tests; 20,000 iterations"
    ),
    _cosine("fomaml", "K = 5, lower step 0.1; the paper's K is not known here", part="-k-5"),
    *(
        _cosine(method, DIFFERS[method], *own_options(method, *cell), cell=cell)
        for method, cell in (
            *(("fomaml", (5, 1)), ("meta_sgd", (5, 1)), ("maml", (5, 5)), ("maml", (20, 1))),
            *(("maml", (20, 5)), ("anil", (20, 1)), ("anil", (20, 5)), ("mt_net", (5, 1))),
        )
    ),
)
OMNIGLOT = (*OF_EACH_CELL, *OF_OTHER_CHOICES)
