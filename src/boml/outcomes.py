"""What becomes of each key of a BOML file.

What BOML did was read in its sources: test_script/script_helper.py and what it calls.
"""

from src.boml.method import method_outcomes
from src.boml.options import (
    Options,
    Outcome,
    corrected,
    dead,
    until,
    used,
    without_effect,
)
from src.settings.errors import UserError


def outcomes(o: Options, parity: bool) -> dict[str, Outcome]:
    """What becomes of each key; `parity`: BOML's choice where there is a switch for it.

    Raises UserError for options that do not go together.
    """
    if o.use_t and o.use_warp:
        raise UserError(
            "use_t and use_warp are both true, but a network has one kind of extra layer (BOML "
            "silently took T-layers); set one of them to false"
        )
    return {
        **_episodes(o, parity),
        **method_outcomes(o, parity),
        **_upper_steps(o),
        **_files(o),
    }


def _episodes(o: Options, parity: bool) -> dict[str, Outcome]:
    if o.dataset == "miniimagenet":
        dataset = used("data=mini_imagenet", "model=conv4_mini")
    elif parity:
        dataset = used("data=omniglot", "data.rotations=true")
    else:
        dataset = used("data=omniglot", note="BOML had turned characters too (--parity)")
    queries = f"problem.queries={o.examples_test}"
    disjoint = corrected("support and query disjoint; in BOML they overlapped (--parity)", queries)
    overlapping = used(
        queries,
        "problem.overlap=true",
        note="as in BOML: support and query overlap, in tests too, which inflates scores",
    )
    return {
        "dataset": dataset,
        "dataset_path": corrected("data.root=FOLDER, or BILEVEL_DATA in the environment"),
        "classes": used(f"problem.ways={o.classes}"),
        "examples_train": used(f"problem.shots={o.examples_train}"),
        "examples_test": until(overlapping if parity else disjoint, "problem.overlap", "problem"),
        "seed": used(f"seed={o.seed}"),
        "meta_batch_size": used(f"meta_batch_size={o.meta_batch_size}"),
        "test_episodes": used(f"num_test_tasks={o.test_episodes}"),
    }


def _upper_steps(o: Options) -> dict[str, Outcome]:
    decay = f"upper_optimizer.decay={o.meta_lr_decay_rate}"
    ignored = o.method == "MetaInit" and o.meta_lr_decay_rate != Options().meta_lr_decay_rate
    return {
        "meta_train_iterations": used(f"num_iterations={o.meta_train_iterations}"),
        "outer_opt": used(f"upper_optimizer={o.outer_opt.lower()}"),
        "meta_lr": used(f"upper_optimizer.step_size={o.meta_lr}"),
        "meta_lr_decay_rate": (
            until(corrected("BOML's MetaInit took 1e-05 whatever it said", decay), "method")
            if ignored
            else used(decay)
        ),
        "clip_value": (
            used(f"upper_optimizer.clip_value={o.clip_value}")
            if o.clip_value > 0
            else until(used(note="off, as it is here"), "upper_optimizer.clip_value")
        ),
    }


def _files(o: Options) -> dict[str, Outcome]:
    evaluate = f"python -m src.evaluate run=DIR num_lower_steps={o.T}"
    return {
        "mode": used(note="trains, then tests"),
        "name_of_args_json_file": dead("in the file itself; here the command line names it"),
        "log": dead("metrics.jsonl and pictures are always written"),
        "logdir": corrected(
            f"runs/DATE/TIME-..., or hydra.run.dir=FOLDER; BOML's was {o.logdir}{o.dataset}"
            + (", in a folder named ..." if o.logdir.startswith("...") else "")
        ),
        "resume": corrected(
            "never from another configuration's checkpoint, as BOML silently did (its folder name "
            "left out truncate_iter, alpha, ...)",
            f"resume={'auto' if o.resume else 'never'}",
        ),
        "print_interval": corrected(
            "of validation tasks; BOML scored test tasks too, and that changed the training tasks",
            f"log_every={o.print_interval}",
            f"eval_every={max(o.print_interval, 10)}",  # 200 tasks: too dear for every iteration
        ),
        "save_interval": corrected(
            "the last state and the best by validation are tested; BOML chose none",
            f"checkpoint_every={o.save_interval}",
        ),
        "expdir": without_effect(f"only mode=test read it; here {evaluate}"),
        "iterations_to_test": corrected(
            f"only mode=test read it, in a run of fewer iterations in vain; here {evaluate}"
        ),
        "Notes": without_effect("a part of BOML's folder name; here hydra.run.dir=runs/NAME"),
    }
