"""Describe: `python -m src.describe [key=value ...]` says what a configuration would do.

Nothing is trained or compiled: shapes come from tracing. With --memory one iteration is compiled.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from src.settings.cli import argument_parser, compose_config, refusals_as_messages

DIFFERENTIATED = {
    "context": "x, through F and through the lower level",
    "direct": "x, where F contains it (not through the lower level)",
    "aggregation": "learned alpha, s, t",
    "lower_optimizer": "learned step sizes",
    "start": "the start y0, where it depends on x",
}


def main() -> None:
    """Print the description of the config that the command line composes."""
    parser = argument_parser("src.describe", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, as of a run")
    parser.add_argument("--memory", action="store_true", help="say how much an iteration takes")
    arguments = parser.parse_args()
    overrides: list[str] = arguments.overrides
    with refusals_as_messages(traceback="traceback=true" in overrides):
        from src.settings.config import resolve

        config, run_dir = compose_config(overrides)
        plain = resolve(config)
        print("\n".join(description(plain, run_dir)))
        if arguments.memory:
            print(f"  {_memory(plain)}")


def description(config: Mapping[str, Any], run_dir: str) -> Iterator[str]:
    """The lines that `python -m src.describe` prints. Raises UserError as a run would."""
    import jax

    from src.settings.build import build
    from src.settings.checked import check_config
    from src.settings.references import read_references

    checked = check_config(config)
    with jax.enable_x64(checked.settings.dtype == "float64"):
        experiment = build(config)
        shapes = _shapes(experiment)
    settings, problem, method = experiment.settings, experiment.problem, experiment.method
    references = read_references()
    papers = "; ".join(references[key].short() for key in method.cite)
    yield f"{experiment.problem_name} with {method.name}" + (f" ({papers})" if papers else "")
    yield ""
    yield "  min over x of F(x, y*(x)),   y*(x) in argmin over y of f(x, y)"
    yield f"  F   {problem.formulas['F']}"
    yield f"  f   {problem.formulas['f']}"
    yield f"  lower step k = 1..{settings.num_lower_steps}:  {experiment.dynamics.formula}"
    if not experiment.source.persistent:
        yield (
            f"  when scored on held-out tasks, k = 1..{settings.steps_of_tests()}:  "
            f"{experiment.test_dynamics.formula}"
        )
    yield f"  y0: {settings.lower_start}"
    yield ""
    name = experiment.hypergradient.name
    yield f"  hypergradient {name}:  {experiment.hypergradient.formula}"
    yield "    with respect to"
    yield from (
        f"      {text}"
        for part, text in DIFFERENTIATED.items()
        if part in experiment.hypergradient.differentiates
    )
    upper = checked.node("upper_optimizer")
    step_size = upper.options.get("step_size")
    yield (
        f"  upper optimizer {upper.factory.__name__}"
        + (f", step size {step_size:g}" if isinstance(step_size, float) else "")
        + f": {settings.num_iterations} iterations of {settings.meta_batch_size} "
        + ("task" if settings.meta_batch_size == 1 else "tasks")
    )
    yield ""
    for title, tree in shapes.items():
        yield f"  {title}"
        yield from _listed(tree)
    yield ""
    yield f"  monitored: {experiment.monitor.metric} ({experiment.monitor.mode})"
    if not experiment.source.has_test:
        yield "  no test data: the scores at the end are those of validation"
    others = [references[key].short() for key in experiment.cite if key not in method.cite]
    yield f"  also uses {'; '.join(others)}"
    yield f"  results go to {run_dir}: result.json, metrics.jsonl, pictures, checkpoints"


def _memory(config: Mapping[str, Any]) -> str:
    """What one iteration takes on a device, and by which plan where there is a budget."""
    import jax

    from src.running.memory import in_words, mib, needed_memory, within_budget
    from src.settings.build import build
    from src.settings.checked import check_settings

    settings = check_settings(config)
    with jax.enable_x64(settings.dtype == "float64"):
        if settings.memory_budget is None:
            return f"an iteration takes {mib(needed_memory(build(config)))} of memory on a device"
        plan, needed = within_budget(config, settings.memory_budget)
    return (
        f"an iteration takes {mib(needed)} of memory on a device, with {in_words(plan.changed)} "
        f"(memory_budget={settings.memory_budget})"
    )


def _shapes(experiment: Any) -> dict[str, Any]:
    """Shapes and dtypes of everything that a newcomer asks for."""
    from bilevel.shapes import learned_shapes, shapes_of

    problem = experiment.problem
    shapes = shapes_of(problem, experiment.source, "train")
    steps = experiment.settings.num_lower_steps
    return {
        "one task": shapes.task,
        "x, the upper variable (learned)": shapes.x,
        "context, what the objectives see of x": shapes.context,
        "y, the lower variable": shapes.y,
        "learned parameters of the lower step": learned_shapes(problem, experiment.dynamics, steps),
    }


def _listed(tree: Any) -> Iterator[str]:
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        name = "/".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)
        yield f"      {name or '(array)':<32} {leaf.dtype!s:<8} {leaf.shape}"
    if not leaves:
        yield "      none"
    elif len(leaves) > 1:
        yield f"      {'total':<32} {sum(leaf.size for _, leaf in leaves):,} numbers"


if __name__ == "__main__":
    main()
