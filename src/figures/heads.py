"""Is it the features or the head? `python -m src.figures.heads run=DIR [num_tasks=1000]`.

Of a few-shot run whose network does not adapt: the accuracy of its features under other heads, on
validation tasks and on as many tasks of the training classes. Only validation and training classes
are looked at, so what is seen here may be used to choose. Prints a table.

    as scored          the run's own lower steps
    more lower steps   four times as many
    nearest mean       a query belongs to the class whose mean support feature is nearest
    means moved        the same; each mean is also over the queries, by the probabilities as scored
    means of others    the same with the means of the labelled queries, a query left out of that of
                       its own class: what the features allow, no method
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.algorithm import AlgorithmState
from bilevel.score_keys import score_keys
from bilevel.shapes import one_task
from bilevel.types import Array, Tree
from src.output.tables import markdown
from src.problems.few_shot import accuracy
from src.running.intervals import mean_and_half_width
from src.running.stored_run import stored_run, stored_state
from src.settings.build import Experiment
from src.settings.cli import key_value_arguments, refusals_as_messages
from src.settings.errors import UserError
from src.settings.key_values import read_options, whole_number

KEYS = {
    "run": "a run folder, which holds config.json",
    "num_tasks": "tasks of each kind (default: 1000)",
}
# {what the table says: the split whose classes are taken}
CLASSES = {"validation": "validation", "training classes": "train"}

HEADS = ("as scored", "more lower steps", "nearest mean", "means moved", "means of others")

Scores = dict[str, tuple[float, float]]


def main() -> None:
    """Print the table."""
    arguments = key_value_arguments("src.figures.heads", __doc__, KEYS)
    with refusals_as_messages(traceback=False):
        options = read_options(arguments, KEYS)
        asked = whole_number(options, "num_tasks")
        number = 1000 if asked is None else asked
        if number < 2:
            raise UserError(f"num_tasks={number} must be at least 2, or there is no interval")
        found = heads(Path(options["run"]), number)
    print("\n".join(table(found)))


def heads(folder: Path, num_tasks: int) -> dict[str, Scores]:
    """{classes: {head: (mean accuracy, 95 % half-width over tasks)}} of the first seed's last x.

    Raises UserError on a run that has no features of support and queries.
    """
    with stored_run(folder) as run:
        experiment = run.experiment
        states = stored_state(run, "last").state
    state = jax.tree.map(lambda leaf: leaf[0], states)
    _refuse_without_features(experiment, folder)
    score = jax.jit(_score(experiment))
    # As tasks of validation, be their classes those of training: a run may train on other tasks.
    data, key = experiment.source.data, jax.random.key(experiment.settings.seed)
    keys = score_keys(key, "validation", num_tasks, persistent=False)
    found = {}
    for name, split in CLASSES.items():
        of_split = {**data, "validation": data[split]}
        scores = np.array([score(state, of_split, one) for one in keys])
        mean, half = mean_and_half_width(scores, 0)
        assert half is not None  # of two tasks at least
        pairs = zip(mean.tolist(), half.tolist(), strict=True)
        found[name] = dict(zip(HEADS, pairs, strict=True))
    return found


def _refuse_without_features(experiment: Experiment, folder: Path) -> None:
    method = experiment.method
    if not isinstance(experiment.source.data, Mapping) or experiment.source.persistent:
        raise UserError(f"run={folder}: no few-shot tasks; choose a run of problem=few_shot")
    if method.lower_variable != "head":
        raise UserError(
            f"run={folder}: the network of method={method.name} adapts to each task, so a task has "
            "no features of its own; choose a run of bda, rhg or anil"
        )


def _score(experiment: Experiment) -> Callable[[AlgorithmState, Tree, Array], Array]:
    """score(state, data, key) -> (heads,): accuracies on the queries of one task, as in HEADS."""
    problem, source = experiment.problem, experiment.source
    steps = experiment.settings.steps_of_tests()

    def score(state: AlgorithmState, data: Tree, key: Array) -> Array:
        task_key, adapt_key = jax.random.split(key)
        task = one_task(source, data, task_key, "validation")
        x = state.variables["problem"]
        features, labels = problem.prepare(x, task), task["query"]["labels"]
        support, query = features["support"], features["query"]

        def scored(num_steps: int) -> Array:
            assert problem.predict is not None
            y = experiment.algorithm.adapt(state, adapt_key, task, num_steps)
            return problem.predict(x, task, y)["query"]

        own = scored(steps)
        classes = own.shape[-1]
        members = jax.nn.one_hot(task["support"]["labels"], classes)
        moved = jnp.concatenate([members, jax.nn.softmax(own)])
        both = jnp.concatenate([support, query])
        logits = (
            own,
            scored(4 * steps),
            nearest(query, means(support, members)),
            nearest(query, means(both, moved)),
            nearest_of_others(query, jax.nn.one_hot(labels, classes)),
        )
        return jnp.stack([accuracy(values, labels) for values in logits])

    return score


def means(features: Array, shares: Array) -> Array:
    """(classes, d): of each class the mean of features (n, d), weighted by its shares (n, classes).

    A class without any share is at infinity, so that it is nowhere the nearest.
    """
    return _of_sums(shares.T @ features, shares.sum(0)[:, None])


def nearest(features: Array, centres: Array) -> Array:
    """(n, classes): minus the squared distances of features (n, d) to centres (classes, d)."""
    return _nearness(features, centres[None])


def nearest_of_others(features: Array, members: Array) -> Array:
    """(n, classes): as nearest(features, means(features, members)), each left out of its own mean.

    members (n, classes): 1 at the class of a row. With itself in its mean, a row would be nearer to
    its class than a new row is.
    """
    own = members[:, :, None]
    counts = members.sum(0)[None, :, None] - own
    sums = (members.T @ features)[None] - own * features[:, None]
    return _nearness(features, _of_sums(sums, counts))


def _nearness(features: Array, centres: Array) -> Array:
    """As `nearest`; centres (n or 1, classes, d)."""
    return -((features[:, None] - centres) ** 2).sum(-1)


def _of_sums(sums: Array, counts: Array) -> Array:
    """Means; infinite where nothing was counted."""
    return jnp.where(counts > 0, sums / jnp.where(counts > 0, counts, 1.0), jnp.inf)


def table(found: Mapping[str, Scores]) -> list[str]:
    """A row per head, in Markdown."""
    rows = [["head", *(f"{name}, %" for name in found)]]
    for head in HEADS:
        cells = [found[name][head] for name in found]
        rows.append([head, *(f"{100 * mean:.2f} +- {100 * half:.2f}" for mean, half in cells)])
    return list(markdown(rows))


if __name__ == "__main__":
    main()
