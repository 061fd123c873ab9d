"""The workspace of wandb: defined without a login, sent by one command."""

import json
import sys

import pytest

from src import workspace
from src.output.workspace import make_workspace
from src.settings.errors import UserError


@pytest.fixture
def call(monkeypatch, capsys):
    def with_arguments(*arguments):
        monkeypatch.setattr("sys.argv", ["workspace", *arguments])
        workspace.main()
        return capsys.readouterr().out

    return with_arguments


def test_the_definition_is_json_with_the_sections_the_grouping_and_the_filter(call):
    pytest.importorskip("wandb_workspaces")
    view = json.loads(call("entity=me", "metric=accuracy", "group=mine"))
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
def test_wrong_arguments(arguments, message, call):
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    assert message in str(stop.value.code)


def test_without_a_login_nothing_is_sent(call, monkeypatch, tmp_path):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(SystemExit) as stop:
        call("entity=me", "push=true")
    assert "run `wandb login` first" in str(stop.value.code)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[workspace\]'"):
        make_workspace("me", "bilevel", "accuracy", None)
