"""Workspace: `python -m src.workspace entity=NAME [project=bilevel] [group=SWEEP] [push=true]`
defines the charts that wandb shows of the runs of a project.

Prints the definition as JSON, which needs no login. With push=true, sends it and prints its
address.
"""

from src.settings.cli import key_value_arguments, refusals_as_messages

KEYS = {
    "entity": "your user name or team on wandb",
    "project": "as logger.wandb.project (default: bilevel)",
    "metric": "the score of the charts (default: upper_loss), such as accuracy",
    "group": "the runs of this sweep alone, as logger.wandb.group (default: all runs)",
    "push": "true: send it to wandb",
    "traceback": "true: errors with their traceback",
}


def main() -> None:
    """Print the definition of a workspace, or send it."""
    arguments = key_value_arguments("src.workspace", __doc__, KEYS, nargs="+")
    with refusals_as_messages(traceback="traceback=true" in arguments):
        from src.output.workspace import definition_of, make_workspace, push
        from src.settings.errors import UserError
        from src.settings.key_values import one_of, read_pairs

        options = read_pairs(arguments, KEYS)
        if "entity" not in options:
            raise UserError("entity is missing: name your user or team on wandb, entity=NAME")
        sent = one_of(options, "push", ("false", "true")) == "true"
        workspace = make_workspace(
            options["entity"],
            options.get("project", "bilevel"),
            options.get("metric", "upper_loss"),
            options.get("group"),
        )
        print(push(workspace) if sent else definition_of(workspace))


if __name__ == "__main__":
    main()
