"""The files under conf/, group by group."""

from pathlib import Path

from src.settings.cli import CONF, compose_config
from src.settings.config import Node, check_node, resolve


def names_of(group: str) -> list[str]:
    """The files of a config group."""
    return sorted(file.stem for file in Path(CONF, group).glob("*.yaml"))


def node_of(group: str, *overrides: str) -> Node:
    """The checked node that a command line with these overrides would build from."""
    config = resolve(compose_config(["problem=ridge", *overrides])[0])
    node = check_node(group, config[group])
    assert node is not None
    return node
