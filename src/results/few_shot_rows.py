"""Rows of Omniglot: 5 and 20 ways, 1 and 5 shots, for each method and cell that a paper has."""

from typing import Any, NamedTuple

from src.results.intervention_rows import training_ways
from src.results.row import Published, Quoted, Row


class OfPaper(NamedTuple):
    """What a paper has of a method, in percent, by (ways, shots): accuracy or (accuracy, half)."""

    source: str
    recalled: bool
    cells: dict[tuple[int, int], float | tuple[float, float]]


def _four(
    *values: float | tuple[float, float],
) -> dict[tuple[int, int], float | tuple[float, float]]:
    return dict(zip(((5, 1), (5, 5), (20, 1), (20, 5)), values, strict=True))


THREE = (0, 1, 2)  # seeds
BETTY = "as in Betty's README"
OF_PAPERS = {
    "bda": OfPaper("Liu et al., ICML 2020", True, _four(99.04, 99.62, 96.50, 99.10)),
    "rhg": OfPaper("Franceschi et al., ICML 2018", True, _four(98.6, 99.5, 95.5, 98.4)),
    "trhg": OfPaper("table of Liu et al., ICML 2020", True, _four(98.74, 99.52, 95.82, 98.95)),
    "maml": OfPaper(
        f"Finn et al., ICML 2017, {BETTY}",
        False,
        _four((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)),
    ),
    "fomaml": OfPaper(f"first-order MAML, {BETTY}", False, _four(98.3, 99.2, 89.4, 97.9)),
    "anil": OfPaper("Raghu et al., ICLR 2020", False, {(20, 1): (96.2, 0.5), (20, 5): (98.0, 0.3)}),
    "meta_sgd": OfPaper("Li et al., 2017", True, _four(99.53, 99.93, 95.93, 98.97)),
    "imaml": OfPaper(
        f"Rajeswaran et al., NeurIPS 2019, gradient descent, {BETTY}",
        False,
        _four(99.16, 99.67, 94.46, 98.69),
    ),
    "reptile": OfPaper(
        "Nichol et al., 2018, with transduction", False, _four(97.68, 99.48, 89.43, 97.12)
    ),
    "mt_net": OfPaper("Lee, Choi, ICML 2018", True, {(5, 1): (99.5, 0.3), (20, 1): (96.2, 0.4)}),
}

CENTRE = "model.centre=true"
CENTRED = "centred features"
SELDOM = ("eval_every=1000", "checkpoint_every=1000")
# Read in github.com/cbfinn/maml (main.py, maml.py), github.com/yoonholee/MT-net
# (experiments/omniglot.sh), github.com/aravindr93/imaml_dev (examples/README.md) and
# github.com/openai/supervised-reptile (README.md; 5 ways, 1 shot: with transduction).
DIFFERS = {
    "bda": f"{CENTRED}; law 0.4 / k (their code: 0.6 * 0.9^(k-1))",
    "rhg": CENTRED,
    "trhg": f"{CENTRED}; the last of five steps is differentiated",
    "maml": "K and lower step of the authors' code (1 shot); what else it has: docs/results.md",
    "fomaml": "K and lower step of MAML's code (1 shot); what else it has: docs/results.md",
    "anil": "K and lower step of the paper are not known here",
    "meta_sgd": "one lower step, recalled; lower steps begin at size 0.1",
    "imaml": "K, lower step and weight of the authors' code (5 ways, 1 shot), and 5 solver steps "
    "(here GMRES, there conjugate gradients with damping 1); there at least 20,000 iterations of "
    "32 tasks, and no weight in tests",
    "reptile": "5 ways: shots in training, K and lower steps in tests as in the authors' commands; "
    "20 ways: two of ten shots in each of ten steps, 50 in tests, 5 tasks (there 12 of 15 or 20 "
    "images, 97, 3). Other there: lower steps by Adam, whose averages go on from task to task; "
    "100,000 iterations (20 ways: 200,000); with 5 ways and 5 shots x begins to move at 0.7",
    "mt_net": "K and lower step of the authors' script; the rest there is as in MAML's. Others got "
    "90 % at 20 ways, 1 shot, from it (issue 2)",
}


# K, tasks, shots in training, shots of each class in a lower step, lower steps in tests.
TEN_SHOTS = (5, 5, 10, 2, 50)
REPTILES = {(5, 1): (3, 10, 15, 5, 5), (5, 5): (5, 5, 10, 2, 100)}
REPTILES |= dict.fromkeys(((20, 1), (20, 5)), (10, 5, 10, 2, 50))


def _reptile(
    steps: int, tasks: int, shots: int, at_once: int, test_steps: int, iterations: int = 6000
) -> tuple[str, ...]:
    return (
        *(f"num_lower_steps={steps}", f"meta_batch_size={tasks}", f"problem.train_shots={shots}"),
        *("problem.train_queries=5", f"problem.train_shots_per_step={at_once}"),
        *(f"test_num_lower_steps={test_steps}", f"num_iterations={iterations}"),
        *("upper_optimizer.annealing=linear", f"upper_optimizer.annealing_iterations={iterations}"),
    )


def _options(method: str, ways: int, shots: int) -> tuple[str, ...]:
    """What the method's own protocol has other than the shared one."""
    few = ways == 5
    if method in ("bda", "rhg", "trhg"):
        return (CENTRE,)
    if method in ("maml", "fomaml") and few:
        return ("num_lower_steps=1", "lower_optimizer.step_size=0.4")
    if method == "mt_net":
        return ("num_lower_steps=1", f"lower_optimizer.step_size={0.4 if few else 0.1}")
    if method == "meta_sgd":
        return ("num_lower_steps=1",)
    if method == "imaml":
        return ("num_lower_steps=16",)
    if method == "reptile":
        return _reptile(*REPTILES[ways, shots])
    return ()


def _row(name: str, method: str, ways: int, shots: int, options: tuple[str, ...]) -> Row:
    paper = OF_PAPERS[method]
    value, half = found if isinstance(found := paper.cells[ways, shots], tuple) else (found, None)
    published = Published(
        value / 100, paper.source, None if half is None else half / 100, paper.recalled
    )
    return Row(
        f"omniglot-{ways}w{shots}s-{name}",
        "omniglot",
        (
            *("experiment=omniglot", f"method={method}", f"problem.ways={ways}"),
            *(f"problem.shots={shots}", *options),
        ),
        (Quoted("test/accuracy", "accuracy", percent=True, published=published),),
        seeds=THREE if name in ("bda", "rhg") and (ways, shots) == (5, 1) else (0,),
        needs="Omniglot",
        differs=DIFFERS[method],
        against=f"omniglot-{ways}w{shots}s-rhg" if name == "bda" else "",
    )


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
    row = _row(name, method, *cell, (CENTRE, *options))
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


OF_EACH_CELL = tuple(
    _row(method, method, *cell, _options(method, *cell))
    for method, paper in OF_PAPERS.items()
    for cell in paper.cells
)
K_OF_MAML = _options("maml", 5, 1)
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
    _cosine(
        "fomaml",
        "K = 5, lower step 0.4, 4 tasks, 5 queries per class in training; the head starts from "
        "zeros",
        *("lower_optimizer.step_size=0.4", "meta_batch_size=4", *SELDOM, *ZERO_HEAD),
        part="-k-5-zero-head",
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
        *(*_options("imaml", 5, 1), "lower_optimizer.step_size=0.03"),
        *("problem.train_queries=5", *SELDOM),
        part="-lower-step-0.03",
    ),
    _row("mt_net-k-5", "mt_net", 5, 1, ())._replace(differs="K = 5, lower step 0.1"),
    _row("reptile-ten-shots", "reptile", 5, 1, _reptile(*TEN_SHOTS))._replace(
        differs="K = 5, two of ten shots in a step, 50 lower steps in tests"
    ),
    *(
        _row(
            f"reptile-ten-shots-{iterations}",
            *("reptile", 5, 1, (*_reptile(*TEN_SHOTS, iterations), *SELDOM)),
        )._replace(
            differs=f"K = 5, two of ten shots in a step, 50 lower steps in tests; {iterations:,} "
            "iterations"
        )
        for iterations in (2000, 20000)
    ),
    _cosine("fomaml", "K = 5, lower step 0.1; the paper's K is not known here", part="-k-5"),
    *(
        _cosine(method, DIFFERS[method], *_options(method, *cell), cell=cell)
        for method, cell in (
            *(("fomaml", (5, 1)), ("meta_sgd", (5, 1)), ("maml", (5, 5)), ("maml", (20, 1))),
            *(("maml", (20, 5)), ("anil", (20, 1)), ("anil", (20, 5)), ("mt_net", (5, 1))),
        )
    ),
)
OMNIGLOT = (*OF_EACH_CELL, *OF_OTHER_CHOICES)
