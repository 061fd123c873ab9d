"""Rows of data hyper-cleaning: pollution, noise, network and method, beside what papers have."""

from itertools import product

from src.results.row import Published, Quoted, Row

METHODS = {
    "rhg": (),
    # A quarter of the steps does as well as all of them, says Shaban et al. (recalled).
    "trhg": ("hypergradient.keep_last=25",),
    "bda": (),
    # A constant law is RHG whose lower level has the validation images too, with the weight 1/2.
    "rhg_validation_too": ("aggregation.law=constant", "aggregation.alpha=0.5"),
    "hoag": (),
    "neumann": (),
}
MODELS = {"linear": ("model=flat",), "mlp": ("model=mlp300", "lower_optimizer.step_size=0.4")}
# Conjugate gradients stopped at once on a small part of Fashion-MNIST (residual 5.9): the lower
# Hessian of a network may be indefinite.
INDEFINITE = ("hypergradient=implicit_gmres",)
DATA = {"mnist": ("MNIST", ()), "fashion": ("", ("data=fashion_mnist",))}

# (data, pollution, noise, model, method): accuracy and F1 in percent, source, recalled
TABLE = "table in BVFIM, ICML 2021, or IAPTT-GM, NeurIPS 2021"
RERUN = "no paper: a rerun in the logs of mls-bench, low trust"
OF_PAPERS = {
    **{
        ("mnist", "uniform", 0.5, "mlp", method): (*numbers, TABLE, True)
        for method, numbers in {
            "rhg": (87.90, 89.36),
            "trhg": (88.57, 89.77),
            "hoag": (89.19, 85.96),
            "neumann": (87.54, 89.58),
            "bda": (87.15, 90.38),
        }.items()
    },
    **{
        ("fashion", "uniform", 0.5, "mlp", method): (*numbers, TABLE, True)
        for method, numbers in {
            "rhg": (81.91, 87.12),
            "trhg": (81.85, 86.76),
            "hoag": (83.15, 85.13),
            "neumann": (81.37, 87.28),
            "bda": (79.97, 88.24),
        }.items()
    },
    ("mnist", "uniform", 0.5, "linear", "rhg"): (84.63, None, RERUN, False),
    ("mnist", "uniform", 0.5, "linear", "trhg"): (84.61, None, RERUN, False),
    ("mnist", "exact", 0.5, "linear", "rhg"): (
        *(90.07, 91.37, "Franceschi et al., ICML 2017, DH-1000", True),
    ),
}
DIFFERS = {
    ("mnist", "exact", 0.5, "linear", "rhg"): "their sum of weights is bounded, ours is not",
}
OF_TABLE = "its rows call the method RHG, T-RHG, CG, Neumann, BDA; their network differs, see above"


def _row(data: str, pollution: str, noise: float, model: str, method: str) -> Row:
    cell = (data, pollution, noise, model, method)
    accuracy, f1, source, recalled = OF_PAPERS.get(cell, (None, None, "", False))
    needs, chosen = DATA[data]
    solver = INDEFINITE if (model, method) == ("mlp", "hoag") else ()
    typed = "bda" if method == "rhg_validation_too" else method
    notes = (
        DIFFERS.get(cell, OF_TABLE if source == TABLE else ""),
        "GMRES in place of conjugate gradients" if solver else "",
        "RHG whose lower level has the validation images too" if typed != method else "",
    )

    def published(value: float | None) -> Published | None:
        return None if value is None else Published(value / 100, source, recalled=recalled)

    return Row(
        f"{data}-{pollution}-{noise}-{model}-{method}",
        "cleaning",
        (
            *("experiment=cleaning", *chosen, f"method={typed}", f"problem.pollution={pollution}"),
            *(f"problem.noise={noise}", *MODELS[model], *METHODS[method], *solver),
        ),
        (
            Quoted("test/accuracy", "accuracy", True, 0.002, published(accuracy)),
            Quoted("test/detection_f1", "F1", True, 0.002, published(f1)),
        ),
        seeds=(0, 1, 2),
        needs=needs,
        differs="; ".join(filter(None, notes)),
    )


CLEANING = (
    *(
        _row("mnist", *cell)
        for cell in product(("uniform", "exact"), (0.5, 0.7, 0.9), MODELS, METHODS)
    ),
    *(_row("fashion", *cell) for cell in product(("uniform",), (0.5, 0.7, 0.9), MODELS, METHODS)),
)
