"""The keys of a BOML file with their types, and what can become of one."""

from typing import Any, Literal, NamedTuple


class Options(NamedTuple):
    """Every key that BOML knew, with BOML's default where a file leaves it out.

    Any: BOML did nothing with the value, and neither does anything here.
    """

    mode: Literal["train", "test"] = "train"
    name_of_args_json_file: Any = "None"
    dataset: Literal["omniglot", "miniimagenet"] = "omniglot"
    dataset_path: Any = None
    classes: int = 5
    examples_train: int = 1
    examples_test: int = 15
    seed: int = 0
    meta_batch_size: int = 2
    meta_train_iterations: int = 2000
    T: int = 3
    xavier: bool = False
    batch_norm: Any = False
    meta_lr: float = 0.001
    meta_lr_decay_rate: float = 1e-5
    clip_value: float = 0.0
    lr: float = 0.1
    truncate_iter: int = -1
    alpha_decay: Any = 1e-5
    learn_lr: bool = False
    learn_st: bool = False
    learn_alpha: bool = False
    learn_alpha_itr: bool = False
    regularization: Any = None
    alpha: float = 0.0
    bda_s: float = 1.0
    bda_t: float = 1.0
    method: str = "MetaFeat"
    inner_method: str = "Trad"
    outer_method: str = "Reverse"
    use_t: bool = False
    use_warp: bool = False
    first_order: bool = False
    reptile: bool = False
    inner_opt: str = "SGD"
    outer_opt: Literal["Adam", "Momentum", "SGD"] = "Adam"
    log: Any = False
    logdir: str = "logs/"
    resume: bool = True
    print_interval: int = 1
    save_interval: int = 1
    test_episodes: int = 600
    expdir: Any = None
    iterations_to_test: Any = None
    Notes: Any = "Notes"


class Outcome(NamedTuple):
    """What becomes of a key: which overrides for src.train it is a reason for, and why.

    The note, or all of this if there are no overrides, holds until the command line chooses one of
    `until`, which are keys of ours; where that is empty, until it replaces one of the overrides.
    """

    kind: Literal["used", "no effect", "dead in BOML", "corrected"]
    overrides: tuple[str, ...] = ()
    note: str = ""
    until: tuple[str, ...] = ()


def until(outcome: Outcome, *keys: str) -> Outcome:
    """The same, which holds until the command line chooses one of these keys of ours."""
    return outcome._replace(until=keys)


def used(*overrides: str, note: str = "") -> Outcome:
    """The key means here what it means in BOML."""
    return Outcome("used", overrides, note)


def corrected(note: str, *overrides: str) -> Outcome:
    """BOML did otherwise than the key says, or what it did was a defect."""
    return Outcome("corrected", overrides, note)


def dead(note: str) -> Outcome:
    """BOML read the key and did nothing with it."""
    return Outcome("dead in BOML", (), note)


def without_effect(note: str) -> Outcome:
    """With these other keys, the key changes nothing, neither in BOML nor here."""
    return Outcome("no effect", (), note)
