"""Which types of problems each method takes, found by trying it on a small one of each type."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

import bilevel
from bilevel import Problem
from bilevel.choices import Method
from bilevel.estimate import suited_lower_problem
from bilevel.types import Array
from src.certification.combinations import few_shot_setting
from src.certification.second_derivatives import second_derivatives
from src.problems.adapting_network import Roles
from src.problems.counterexample import counterexample
from src.settings.cli import compose_config
from src.settings.config import call, check_node, resolve
from src.settings.groups import names_of

YES, CHOSEN_BY_UPPER, KEPT_FROM_START = "yes", "F chooses", "as y0 has it"
ALL_BATCHES, LOWER_BATCHES = "all of it", "lower steps"
AS_PENALTIES, THEMSELVES, FIXED = "as penalties", "themselves", "from a fixed y0"


class Published(NamedTuple):
    """A file of conf/method: the method, and what of a network adapts."""

    method: Method
    roles: Roles


class Type(NamedTuple):
    """A type of problems. words(method): what a cell says where the method takes it."""

    header: str
    problem: Problem
    words: Callable[[Method], str]


def published(name: str) -> Published:
    """With the options of its file, for a problem that recommends nothing special."""
    config = resolve(compose_config([f"method={name}", "problem=few_shot"])[0])
    groups = ("aggregation", "lower_optimizer", "hypergradient")
    choices = (call(node) for group in groups if (node := check_node(group, config[group])))
    method = Method(
        name,
        *choices,
        num_lower_steps=config["num_lower_steps"],
        lower_start=config["lower_start"],
        proximal_weight=config["proximal_weight"],
    )
    roles = config["method"]
    return Published(method, Roles(roles["lower_variable"], roles["learn_start"]))


def types() -> list[Type]:
    """Those for a start that is not learned; each differs by one thing from the first."""
    return [
        Type("x in F and f", _small(_distance, _both), _yes),
        Type("x in f alone", _small(_distance, lambda x, y: _distance(1.0, y)), _yes),
        Type("several lower solutions", Problem(*counterexample()), _choice),
        Type("bounds of y", _small(_distance, _both, project_lower=jnp.abs), _yes),
        Type("constraints g(x, y)", _small(_distance, _both, lower_constraints=_line), _penalties),
        Type("mini-batches", _rows(), _batches),
        Type("new tasks", Problem(*few_shot_setting(Roles("head", False))[:2]), _yes),
    ]


def method_rows() -> tuple[list[list[str]], list[str]]:
    """Table of method x type; and why some are refused, by the numbers in its cells."""
    reasons: list[str] = []
    tried = types()
    headers = [of.header for of in tried]
    rows = [["method", "second derivatives of", *headers, "a learned start"]]
    for name in names_of("method"):
        method, roles = published(name)
        if roles.learn_start:
            learned = Problem(*few_shot_setting(roles)[:2])
            why, taken = _refusal(learned, method), [learned]
            cells = [*[""] * len(tried), _numbered(why, reasons) if why else YES]
        else:
            found = [_refusal(of.problem, method) for of in tried]
            taken = [of.problem for of, why in zip(tried, found, strict=True) if not why]
            cells = [
                _cell(of, method, why, reasons, alone=len(taken) == 1)
                for of, why in zip(tried, found, strict=True)
            ]
            cells.append("")
        rows.append([f"`{name}`", ", ".join(second_derivatives(taken[0], method)), *cells])
    return rows, reasons


def _cell(of: Type, method: Method, why: str, reasons: list[str], alone: bool) -> str:
    """`alone`: whether the method takes this type and no other."""
    if not why:
        made_for_them = alone and of.words is _penalties
        return THEMSELVES if made_for_them else of.words(method)
    if method.lower_start == "warm" and not of.problem.source.persistent:
        why = _refusal(of.problem, method._replace(lower_start="fixed"))
        if not why:
            return FIXED
    return _numbered(why, reasons)


def _numbered(why: str, reasons: list[str]) -> str:
    if why not in reasons:
        reasons.append(why)
    return f"[{reasons.index(why) + 1}]"


def _refusal(problem: Problem, method: Method) -> str:
    """Why the method does not take the problem; "" if it does."""
    try:
        suited_lower_problem(problem, method)
    except ValueError as error:
        return str(error)
    return ""


# ---- what a cell says ----


def _yes(method: Method) -> str:
    return YES


def _choice(method: Method) -> str:
    """F chooses among lower solutions where it moves y."""
    sees = method.aggregation.sees_upper or method.hypergradient.own_directions
    return CHOSEN_BY_UPPER if sees else KEPT_FROM_START


def _penalties(method: Method) -> str:
    return AS_PENALTIES


def _batches(method: Method) -> str:
    return ALL_BATCHES if method.hypergradient.on_rows else LOWER_BATCHES


# ---- small problems ----


def _distance(x: Array | float, y: Array) -> Array:
    """f(x, y) = |y - x|^2 / 2"""
    return jnp.sum((y - x) ** 2) / 2


def _both(x: Array, y: Array) -> Array:
    """F(x, y) = |y - 1|^2 / 2 + |x|^2 / 2"""
    return _distance(1.0, y) + jnp.sum(x**2) / 2


def _line(x: Array, y: Array) -> Array:
    return y - x - 1


def _small(f: Callable[..., Array], F: Callable[..., Array], **options: Any) -> Problem:
    return bilevel.problem(f, F, upper_start=jnp.zeros(2), lower_start=jnp.zeros(2), **options)


def _rows() -> Problem:
    rows = jnp.linspace(0, 1, 8)[:, None]

    def on_rows(objective: Callable[..., Array]) -> Callable[..., Array]:
        def mean(x: Array, y: Array, rows: Array) -> Array:
            return objective(x, y - jnp.mean(rows, axis=0))

        return mean

    return bilevel.problem(
        on_rows(_distance),
        on_rows(_both),
        upper_start=jnp.zeros(2),
        lower_start=jnp.zeros(2),
        train=rows,
        validation=rows,
        batch_size=4,
        sampling="epochs",
    )
