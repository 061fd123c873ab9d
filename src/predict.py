"""Predict: `python -m src.predict run=DIR [support=FOLDER query=FOLDER] [checkpoint=best|last|N]
[num_lower_steps=10]` uses what a stored run has learned (docs/prediction.md).

A few_shot run adapts to the labelled images support/CLASS/FILES and says which class each image of
query/FILES (or query/CLASS/FILES: then with the accuracy) has. A hyper_cleaning run lists the
weights of its training samples and the labels it suspects, a regularisation or ridge run its
model. Writes DIR/predictions/*.csv, and pictures or arrays beside it; the path is printed last.
"""

from pathlib import Path

from src.settings.cli import key_value_arguments, refusals_as_messages

KEYS = {
    "run": "a run folder, which holds config.json",
    "support": "a folder with one folder of images for each class (few_shot)",
    "query": "a folder of images, or of class folders (few_shot)",
    "checkpoint": "last (default), best, or an iteration whose checkpoint is kept",
    "num_lower_steps": "lower steps (default: as many as the run did)",
    "seed": "of a run with several seeds, the one to use (default: the first)",
    "invert": "auto (default), true or false: exchange light and dark (few_shot)",
    "traceback": "true: errors with their traceback",
}


def main() -> None:
    """Write the predictions of a stored run, and print what there is to say of them."""
    arguments = key_value_arguments("src.predict", __doc__, KEYS)
    with refusals_as_messages(traceback="traceback=true" in arguments):
        from src.prediction.command import predict
        from src.running.stored_run import stored_run
        from src.settings.key_values import one_of, read_options

        options = read_options(arguments, KEYS)
        one_of(options, "traceback", ("false", "true"))
        with stored_run(Path(options["run"])) as run:
            lines, path = predict(run, options)
    print("\n".join([*lines, str(path)]))


if __name__ == "__main__":
    main()
