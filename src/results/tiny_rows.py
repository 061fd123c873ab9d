"""Rows of seconds, on data that needs no file: a test reruns them (tests/test_results_rerun.py)."""

from src.results.row import Published, Quoted, Row

CLOSED = "closed form"


def _counterexample(method: str, upper_loss: float, limit: str) -> Row:
    loss = Published(upper_loss, f"{CLOSED}{limit}")
    return Row(
        f"tiny-counterexample-{method}",
        "tiny",
        ("problem=counterexample", f"method={method}"),
        (Quoted("validation/upper_loss", "F", tolerance=1e-6, published=loss),),
    )


TINY = (
    _counterexample("bda", 0.0, ""),
    _counterexample("rhg", 0.25, " for K to infinity"),
    Row(
        "tiny-regularisation-hoag",
        "tiny",
        ("problem=regularisation", "method=hoag"),
        (
            Quoted("test/value_function", "h", tolerance=1e-5),
            Quoted("test/value_function_gradient_norm", "norm of grad h", tolerance=1e-5),
        ),
        differs="another data set than HOAG's paper: breast cancer",
    ),
    Row(
        "tiny-digits-rhg",
        "tiny",
        (
            *("problem=hyper_cleaning", "method=rhg", "num_iterations=30"),
            "lower_optimizer.step_size=0.5",
        ),
        (
            Quoted("test/accuracy", "accuracy", True, 0.01),
            Quoted("test/detection_f1", "F1", True, 0.01),
        ),
        seeds=(0, 1, 2),
        differs="another data set than the papers: scikit-learn's digits",
    ),
    Row(
        "tiny-glyphs-bda",
        "tiny",
        (
            *("method=bda", "num_iterations=20", "meta_batch_size=2", "model.filters=8"),
            *("model.num_blocks=3", "num_lower_steps=3", "eval_every=20"),
            *("num_validation_tasks=10", "num_test_tasks=100"),
        ),
        (Quoted("test/accuracy", "accuracy", True),),
        differs="far too short to be good; chance is 20 %",
    ),
)
