"""Rows of Omniglot for each cell of a paper: its method, 5 or 20 ways, 1 or 5 shots."""

from typing import NamedTuple

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


def reptile_options(
    steps: int, tasks: int, shots: int, at_once: int, test_steps: int, iterations: int = 6000
) -> tuple[str, ...]:
    """Annealed to 0; the queries are not seen, only the shots."""
    return (
        *(f"num_lower_steps={steps}", f"meta_batch_size={tasks}", f"problem.train_shots={shots}"),
        *("problem.train_queries=5", f"problem.train_shots_per_step={at_once}"),
        *(f"test_num_lower_steps={test_steps}", f"num_iterations={iterations}"),
        *("upper_optimizer.annealing=linear", f"upper_optimizer.annealing_iterations={iterations}"),
    )


def own_options(method: str, ways: int, shots: int) -> tuple[str, ...]:
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
        return reptile_options(*REPTILES[ways, shots])
    return ()


def row_of_cell(name: str, method: str, ways: int, shots: int, options: tuple[str, ...]) -> Row:
    """Its accuracy stands beside the paper's of this method and cell."""
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


OF_EACH_CELL = tuple(
    row_of_cell(method, method, *cell, own_options(method, *cell))
    for method, paper in OF_PAPERS.items()
    for cell in paper.cells
)
