"""The workspace of wandb: defined without a login, sent by one command."""

import json
import sys
from importlib.util import find_spec

import pytest

from src.output.workspace import make_workspace
from src.settings.errors import UserError
from tests.conftest import python


def needs_the_package():
    if find_spec("wandb_workspaces") is None:
        pytest.skip("wandb-workspaces is not installed")


def workspace(*arguments, **environment):
    """What `python -m src.workspace *arguments` prints, and its status. As a program: the package
    warns of its own code when it is imported."""
    done = python("-m", "src.workspace", *arguments, **environment)
    assert "Traceback" not in done.stderr
    return done


def test_the_definition_is_json_with_the_sections_the_grouping_and_the_filter():
    needs_the_package()
    view = json.loads(workspace("entity=me", "metric=accuracy", "group=mine").stdout)
    assert (view["entity"], view["project"], view["displayName"]) == (
        "me",
        "bilevel",
        "bilevel mine",
    )
    section = view["spec"]["section"]
    titles = [part["name"] for part in section["panelBankConfig"]["sections"]]
    assert titles[:4] == ["Scores", "Lower level", "Best states and costs", "Pictures"]
    text = json.dumps(section)
    for shown in ("validation/accuracy", "best/test/accuracy", "pictures/learning_curves"):
        assert shown in text
    (runs,) = section["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "method.value.name"}]
    (only,) = runs["filters"]["filters"]
    assert (only["key"]["name"], only["value"]) == ("group", "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["project=a"], "entity is missing"),
        (["entity=a", "push=yes"], "push=yes is not known; choose false or true"),
        (["entity=a", "entiti=b"], "did you mean entity?"),
    ],
)
def test_wrong_arguments(arguments, message):
    assert message in workspace(*arguments).stderr


def test_without_a_login_nothing_is_sent(tmp_path):
    needs_the_package()
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "NETRC": str(tmp_path), "WANDB_API_KEY": ""}
    done = workspace("entity=me", "push=true", **nowhere)
    assert done.returncode == 1
    assert "run `wandb login` first" in done.stderr


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[workspace\]'"):
        make_workspace("me", "bilevel", "accuracy", None)
