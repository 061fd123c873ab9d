"""A workspace of wandb as code: which charts of a project's runs are shown, and how grouped."""

from typing import Any

from src.settings.errors import UserError, first_line


def make_workspace(entity: str, project: str, metric: str, group: str | None) -> Any:
    """Charts of a score, of the lower level and of the costs, and the runs' pictures.

    Runs are grouped by method; group: those of one sweep alone. Nothing is sent. Raises UserError
    where the package is missing.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise UserError(
            "wandb-workspaces is not installed: pip install -e '.[workspace]' installs it"
        ) from error

    def lines(*names: str, log: bool = False) -> list[Any]:
        return [panels.LinePlot(title=n, x="step", y=[n], log_y=log or None) for n in names]

    validation = metric if metric.startswith("validation/") else f"validation/{metric}"
    name = validation.removeprefix("validation/")
    summary = [f"best/{validation}", f"best/test/{name}", "seconds", "peak_memory_mib"]
    pictures = [f"pictures/{name}" for name in ("learning_curves", "adaptation_curve", "tasks")]
    sections = {
        "Scores": lines(validation, "train/upper_loss"),
        "Lower level": lines(
            "train/lower_loss", "train/stationarity_norm", "train/hypergradient_norm", log=True
        ),
        "Best states and costs": [panels.BarPlot(title=n, metrics=[n]) for n in summary],
        "Pictures": [panels.MediaBrowser(media_keys=pictures)],
    }
    only = f"Metric('Group') == '{group}'" if group else ""
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"bilevel {group or validation}",
        sections=[
            workspaces.Section(name=title, panels=content, is_open=True)
            for title, content in sections.items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis="step"),
        runset_settings=workspaces.RunsetSettings(
            groupby=[workspaces.Config("method.name")], filters=only
        ),
    )


def definition_of(workspace: Any) -> str:
    """What would be sent, as JSON."""
    return workspace._to_model().model_dump_json(by_alias=True, indent=1)


def push(workspace: Any) -> str:
    """Send a workspace to wandb; its address. Raises UserError without a login or a network."""
    try:
        return str(workspace.save().url)
    except Exception as error:
        raise UserError(
            f"push=true: wandb does not take the workspace ({first_line(error)}); run `wandb "
            "login` first, and check entity and project"
        ) from error
