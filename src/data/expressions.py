"""Formulas in text as functions; no code is run.

x1, x2, ... and y1, y2, ... are entries of vectors; + - * / **, numbers, sin cos exp log sqrt.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from bilevel.types import Array

Formula = Callable[[Array, Array], Array]
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS = {name: getattr(jnp, name) for name in ("sin", "cos", "exp", "log", "sqrt")}


def formula(text: str) -> Formula:
    """(x, y) -> the value of the text; x and y are vectors.

    Raises ValueError for what is no formula of this kind.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no formula: {error.msg}") from error
    names_of(text)  # refuse now what cannot be evaluated later
    return lambda x, y: jnp.asarray(_value(tree, x, y))


def names_of(text: str) -> set[str]:
    """The entries of x and y in a formula. Raises ValueError for what is no formula."""
    found = set()
    for node in ast.walk(ast.parse(text, mode="eval")):
        if isinstance(node, ast.Name) and node.id not in FUNCTIONS:
            if not re.fullmatch(r"[xy][1-9][0-9]*", node.id):
                raise ValueError(f"{text!r}: {node.id} is no entry of x or y, such as x1")
            found.add(node.id)
        elif not isinstance(node, _KNOWN):
            raise ValueError(f"{text!r}: {ast.unparse(node)} is no part of a formula")
    return found


_KNOWN = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Call, ast.Name, ast.Load, ast.Constant)
_KNOWN += tuple(OPERATORS)


def _value(node: ast.AST, x: Array, y: Array) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return {"x": x, "y": y}[node.id[0]][int(node.id[1:]) - 1]
    if isinstance(node, ast.Call):
        return FUNCTIONS[ast.unparse(node.func)](_value(node.args[0], x, y))
    parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]  # type: ignore[attr-defined]
    return OPERATORS[type(node.op)](*(_value(part, x, y) for part in parts))  # type: ignore[attr-defined]
