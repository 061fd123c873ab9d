"""Which combinations of the four choices run, found by trying them as a run would.

Nothing is compiled: an estimator and its refusals are made for a small problem of each kind, with
the options that the files under conf/ give.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bilevel.aggregation import laws_by_name
from bilevel.dynamics import compose
from bilevel.estimator import Hypergradient, Part
from bilevel.lower_level import LowerProblem
from bilevel.shapes import Shapes, shapes_of
from bilevel.types import BilevelProblem, TaskSource
from src.boml.names import COMBINATIONS, options_of, overrides_of
from src.data.image_classes import SPLITS, ImageClasses
from src.data.synthetic_regression import synthetic_regression
from src.models.mlp import linear
from src.problems.adapting_network import Roles
from src.problems.few_shot import few_shot
from src.problems.ridge import ridge
from src.settings.build import make_hypergradient
from src.settings.cli import compose_config
from src.settings.config import Node, call, check_node, resolve
from src.settings.errors import UserError
from src.settings.groups import names_of, node_of

DECLARED: dict[Part, str] = {
    "context": "x",
    "direct": "x in F only",
    "aggregation": "alpha, s, t",
    "lower_optimizer": "step size",
    "start": "start",
}
NUM_LOWER_STEPS = 5
UNDAMPED = ("hypergradient=implicit_cg", "hypergradient.damping=0")


class Setting(NamedTuple):
    """A problem to try estimators on."""

    problem: BilevelProblem
    source: TaskSource
    shapes: Shapes


def hypergradient_node(name: str) -> Node:
    """An estimator, with damping where it has that option: no singular Hessian then refuses it."""
    node = node_of("hypergradient", f"hypergradient={name}")
    damping = {"damping": 0.1} if "damping" in node.options else {}
    return node._replace(options={**node.options, **damping})


def ridge_setting() -> Setting:
    """A strongly convex lower level and a direct path from x to f only."""
    data = synthetic_regression(num_rows=(6, 6, 6), num_features=3, num_relevant=2, data_seed=0)
    return _setting(*ridge(data))


def few_shot_setting(roles: Roles) -> Setting:
    """Few-shot classification of blank images, whatever the roles."""
    classes = np.arange(9)
    data = ImageClasses(
        np.zeros((9, 4, 4, 4, 1), np.uint8),
        tuple(map(str, classes)),
        dict(zip(SPLITS, np.split(classes, 3), strict=True)),
    )
    model = linear(num_features=2)
    return _setting(*few_shot(data, model, roles, ways=3, shots=1, queries=2))


def _setting(problem: BilevelProblem, source: TaskSource) -> Setting:
    return Setting(problem, source, shapes_of(problem, source, "validation"))


def refusal(setting: Setting, aggregation: Node, optimizer: Node, hypergradient: Node) -> str:
    """Why this combination is refused; "" if it runs."""
    try:
        dynamics = compose(call(aggregation), call(optimizer))
        lower = LowerProblem(setting.problem, dynamics, NUM_LOWER_STEPS, setting.source.persistent)
        make_hypergradient(hypergradient, lower, setting.shapes)
    except UserError as error:
        return str(error)
    return ""


def estimator_rows() -> Iterator[list[str]]:
    """Per file under conf/hypergradient: what it differentiates, what its target is."""
    yield ["hypergradient", *DECLARED.values(), "derivative of"]
    for name in names_of("hypergradient"):
        estimator: Hypergradient = call(hypergradient_node(name))
        marks = ["yes" if part in estimator.differentiates else "" for part in DECLARED]
        yield [name, *marks, estimator.target.formula if estimator.target else "nothing: a rule"]


def combination_rows() -> tuple[list[list[str]], list[str]]:
    """Table of (hypergradient, aggregation) -> lower optimizers that run; and the reasons."""
    setting = few_shot_setting(Roles("head", False))
    optimizers = {
        name: node_of("lower_optimizer", f"lower_optimizer={name}")
        for name in names_of("lower_optimizer")
    }
    aggregations = {"lower_only": node_of("aggregation", "aggregation=lower_only")}
    for law in laws_by_name():
        chosen = ("aggregation=descent", f"aggregation.law={law}", "aggregation.learn=[alpha]")
        aggregations[law] = node_of("aggregation", *chosen)
    reasons: list[str] = []
    rows = []
    for name in names_of("hypergradient"):
        node = hypergradient_node(name)
        row = [name]
        for aggregation in aggregations.values():
            refused = {
                optimizer: refusal(setting, aggregation, chosen, node)
                for optimizer, chosen in optimizers.items()
            }
            row.append(_cell(refused, reasons))
        rows.append(row)
    return _merged([["hypergradient", *aggregations], *rows]), reasons


def further_refusals() -> Iterator[tuple[str, str]]:
    """Refusals that come from the problem or from what is to be learned: (when, why)."""
    plain = node_of("aggregation", "aggregation=lower_only")
    sgd = node_of("lower_optimizer", "lower_optimizer=sgd")
    learned = node_of("lower_optimizer", "lower_optimizer=sgd", "lower_optimizer.learn=scalar")
    implicit, undamped = hypergradient_node("implicit_cg"), node_of("hypergradient", *UNDAMPED)
    forward = node_of("hypergradient", "hypergradient=forward", "hypergradient.max_scalars=10")
    nothing = node_of("hypergradient", "hypergradient=truncated", "hypergradient.keep_last=0")
    head = few_shot_setting(Roles("head", False))
    for when, setting, optimizer, hypergradient in (
        ("implicit, learned step size", head, learned, implicit),
        ("implicit, learned start", few_shot_setting(Roles("head", True)), sgd, implicit),
        ("implicit, singular lower Hessian", head, sgd, undamped),
        ("first_order, F without x", ridge_setting(), sgd, hypergradient_node("first_order")),
        ("truncated to nothing, learned step size", head, learned, nothing),
        ("forward, many scalars", head, sgd, forward),
    ):
        yield when, refusal(setting, plain, optimizer, hypergradient)


def boml_rows() -> list[list[str]]:
    """BOML's twelve combinations: ours, and whether it runs."""
    rows = [["BOML", "meaning", "here: python -m src.train", ""]]
    settings = {
        "MetaFeat": few_shot_setting(Roles("head", False)),
        "MetaInit": few_shot_setting(Roles("all", True)),
    }
    for code, meaning in COMBINATIONS.items():
        options = options_of(code)
        overrides = overrides_of(options)
        config = resolve(compose_config([*overrides])[0])
        nodes = [
            check_node(group, config[group])
            for group in ("aggregation", "lower_optimizer", "hypergradient")
        ]
        reason = refusal(settings[options["method"]], *nodes)  # pyright: ignore
        rows.append([code, meaning, " ".join(overrides), reason or "runs"])
    return rows


def _merged(rows: list[list[str]]) -> list[list[str]]:
    """Columns with the same cells become one, under all their names."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name, *cells in zip(*rows, strict=True):
        columns.setdefault(tuple(cells), []).append(name)
    header = [", ".join(names) for names in columns.values()]
    return [header, *map(list, zip(*columns, strict=True))]


def _cell(refused: dict[str, str], reasons: list[str]) -> str:
    """ "all", "all but adamw [1]" or "none [2]"; new reasons are appended to the list."""
    bad = {name: reason for name, reason in refused.items() if reason}
    marks = []
    for reason in dict.fromkeys(bad.values()):
        if reason not in reasons:
            reasons.append(reason)
        marks.append(f"[{reasons.index(reason) + 1}]")
    if not bad:
        return "all"
    left = "none" if len(bad) == len(refused) else f"all but {', '.join(bad)}"
    return f"{left} {''.join(marks)}"
