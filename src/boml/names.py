"""BOML's option names, as overrides of this project's configuration.

BOML (github.com/dut-media-lab/BOML) composes a method from `method`, `inner_method` and
`outer_method`; here these are roles, aggregation and hypergradient. The twelve combinations that
its users try are COMBINATIONS.
"""

from collections.abc import Mapping
from typing import Any

from src.settings.config import unknown_key
from src.settings.errors import UserError

DEFAULTS: Mapping[str, Any] = {
    "method": "MetaFeat",
    "inner_method": "Trad",
    "outer_method": "Reverse",
    "inner_opt": "SGD",
    "truncate_iter": -1,
    "learn_lr": False,
    "learn_st": False,
    "learn_alpha": False,
    "learn_alpha_itr": False,
    "first_order": False,
}
CHOICES = {
    "method": {"MetaFeat": "MF", "MetaRepr": "MF", "MetaInit": "MI"},
    "inner_method": {"Simple": "S", "Trad": "T", "Aggr": "A"},
    "outer_method": {"Simple": "S", "Reverse": "R", "Implicit": "I", "Darts": "D", "Forward": "F"},
    "inner_opt": {"SGD": "sgd", "Momentum": "momentum", "Adam": "adam"},
}
# Code -> what it means mathematically.
COMBINATIONS = {
    "MFSS": "features above, SGD on a head below, unrolled: the same as MFTR",
    "MFAD": "BDA, the last step by finite differences",
    "MFAR": "BDA",
    "MFTR": "RHG",
    "MFTI": "HOAG on a head",
    "MFTD": "DARTS on a head",
    "MISS": "MAML",
    "MIAD": "MAML with an aggregated step, by finite differences",
    "MIAR": "MAML with aggregated steps",
    "MITR": "MAML in reverse mode: the same as MISS",
    "MITI": "the implicit gradient of an initialisation, which is zero",
    "MITD": "FOMAML and the second derivatives of the last step, by finite differences",
}


def options_of(code: str) -> dict[str, str]:
    """BOML's three options from a code such as MFAR."""
    letters = {"method": code[:2], "inner_method": code[2], "outer_method": code[3]}
    return {
        option: next(name for name, letter in CHOICES[option].items() if letter == wanted)
        for option, wanted in letters.items()
    }


def overrides_of(options: Mapping[str, Any]) -> list[str]:
    """Overrides for `python -m src.train`.

    Raises UserError for a name that BOML does not have, and for options that do not go together.
    """
    for name in options:
        if name not in DEFAULTS:
            raise UserError(unknown_key("", name, DEFAULTS))
    chosen = {**DEFAULTS, **options}
    for name, known in CHOICES.items():
        if chosen[name] not in known:
            raise UserError(f"{name}={chosen[name]} is none of BOML's {', '.join(known)}")
    _refuse_contradictions(chosen)
    overrides = [*_preset(chosen), *_hypergradient(chosen)]
    if chosen["inner_method"] == "Aggr":
        learned = ["alpha"] * (chosen["learn_alpha"] or chosen["learn_alpha_itr"])
        learned += ["s", "t"] * chosen["learn_st"]
        law = "per_step" if chosen["learn_alpha_itr"] else "harmonic"
        overrides += [f"aggregation.law={law}"]
        overrides += [f"aggregation.learn=[{','.join(learned)}]"] if learned else []
    if chosen["inner_opt"] != "SGD":
        overrides += [f"lower_optimizer={CHOICES['inner_opt'][chosen['inner_opt']]}"]
    if chosen["learn_lr"]:
        overrides += ["lower_optimizer.learn=scalar"]
    return overrides


def _preset(chosen: Mapping[str, Any]) -> list[str]:
    """The file of conf/method that is nearest, and what of the roles it does not say."""
    outer, aggregated = chosen["outer_method"], chosen["inner_method"] == "Aggr"
    if chosen["method"] == "MetaInit":
        if aggregated:
            return ["method=maml_bda"]
        if outer == "Implicit":  # HOAG's tolerances; iMAML would be another problem
            return ["method=hoag", "method.lower_variable=all", "method.learn_start=true"]
        return ["method=fomaml" if chosen["first_order"] else "method=maml"]
    if aggregated:
        return ["method=bda"]
    if outer == "Reverse" and chosen["truncate_iter"] >= 0:
        return ["method=trhg"]
    preset = {"Implicit": "hoag", "Darts": "darts"}.get(outer, "rhg")
    return [f"method={preset}"]


def _hypergradient(chosen: Mapping[str, Any]) -> list[str]:
    outer, kept = chosen["outer_method"], chosen["truncate_iter"]
    if outer == "Reverse" and kept >= 0:
        return ["hypergradient=truncated", f"hypergradient.keep_last={kept}"]
    file = {
        "Simple": "first_order" if chosen["first_order"] else "unrolled",
        "Reverse": "unrolled",
        "Implicit": "implicit_cg",
        "Darts": "finite_difference",
        "Forward": "forward",
    }[outer]
    return [f"hypergradient={file}"]


def _refuse_contradictions(chosen: Mapping[str, Any]) -> None:
    if chosen["truncate_iter"] >= 0 and chosen["outer_method"] != "Reverse":
        raise UserError(
            f"truncate_iter={chosen['truncate_iter']} belongs to outer_method=Reverse, not "
            f"{chosen['outer_method']}; choose truncate_iter=-1"
        )
    if chosen["first_order"] and chosen["outer_method"] != "Simple":
        raise UserError(
            "first_order=True drops second derivatives from an unrolled gradient "
            f"(outer_method=Simple), not from {chosen['outer_method']}; choose first_order=False"
        )
    for name in ("learn_alpha", "learn_alpha_itr", "learn_st"):
        if chosen[name] and chosen["inner_method"] != "Aggr":
            raise UserError(
                f"{name}=True: alpha, s and t are no part of inner_method="
                f"{chosen['inner_method']}; choose inner_method=Aggr (BOML ignores it silently)"
            )
