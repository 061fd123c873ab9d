"""Rows of README.md and docs/: measured with this code, with nothing published to compare with."""

from src.results.row import Quoted, Row

ACCURACY = Quoted("test/accuracy", "accuracy", percent=True)
OF_ONE_TASK = ACCURACY._replace(tolerance=0.002)  # no interval over tasks


def _omniglot(ways: int, method: str, iterations: int) -> Row:
    return Row(
        f"plain-omniglot-{ways}w1s-{method}-{iterations}",
        "measured",
        (
            *("data=omniglot", f"method={method}", f"problem.ways={ways}"),
            f"num_iterations={iterations}",
        ),
        (ACCURACY,),
        needs="Omniglot",
    )


def _fashion(method: str) -> Row:
    return Row(
        f"fashion-exact-0.5-step-0.3-{method}",
        "measured",
        (
            *("problem=hyper_cleaning", "data=fashion_mnist", "model=flat", f"method={method}"),
            "lower_optimizer.step_size=0.3",
        ),
        (OF_ONE_TASK, Quoted("test/detection_f1", "F1", True, 0.002)),
        seeds=(0, 1, 2, 3, 4),
    )


MEASURED = (
    Row("glyphs-5w1s-bda", "measured", ("method=bda",), (ACCURACY,)),
    *(_omniglot(5, method, iterations) for method in ("bda", "rhg") for iterations in (500, 1000)),
    _omniglot(20, "bda", 300),
    _fashion("rhg"),
    _fashion("bda"),
)
