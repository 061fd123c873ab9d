"""What becomes of a BOML file's keys for the method, the network and the lower steps."""

from src.boml.names import DEFAULTS, overrides_of
from src.boml.options import (
    Options,
    Outcome,
    corrected,
    dead,
    until,
    used,
    without_effect,
)

OFF = used(note="off, as it is here")
MASKS = "BOML had no learned masks; method=mt_net has"
UNROLLED, FIRST_ORDER = "hypergradient=unrolled", "hypergradient=first_order"


def method_outcomes(o: Options, parity: bool) -> dict[str, Outcome]:
    """What becomes of each of these keys. Raises UserError for options that do not go together."""
    overrides = _overrides(o)
    return {**_method(o, overrides, parity), **_lower_steps(o, overrides, parity)}


def _overrides(o: Options) -> list[str]:
    """Preset, hypergradient, aggregation and lower optimizer."""
    chosen = {name: getattr(o, name) for name in DEFAULTS}
    if o.truncate_iter >= o.T:
        chosen["truncate_iter"] = -1  # all steps
    overrides = overrides_of(chosen)
    lower = [text for text in overrides if text.startswith("lower_optimizer")]
    if o.method == "MetaInit" and o.reptile:
        return ["method=reptile", *lower]
    if overrides[:2] in (["method=maml", UNROLLED], ["method=fomaml", FIRST_ORDER]) and o.use_warp:
        return ["method=warp_grad", "hypergradient=warp_grad", *lower]
    return overrides


def _method(o: Options, overrides: list[str], parity: bool) -> dict[str, Outcome]:
    preset, hypergradient = overrides[0], _of(overrides, "hypergradient")
    law = _of(overrides, "aggregation.law")
    inner = used(*law, note="" if law else f"part of {preset}")
    outer = used(*hypergradient)
    truncate = used(note="through all lower steps") if UNROLLED in hypergradient else OFF
    if 0 <= o.truncate_iter < o.T:
        truncate = outer
    if preset == "method=reptile":
        inner = without_effect("Reptile's lower steps follow f alone")
        outer = truncate = without_effect("Reptile differentiates nothing")
    elif why := _no_steps(o):
        inner = corrected(why, *law)
    elif why := _no_gradient(o):
        outer = corrected(why, *hypergradient)
    extra = used("model.extra=t_layers", note=MASKS) if o.use_t else OFF
    all_choices = ("method", "aggregation", "hypergradient")
    return {
        "method": _roles(o, _of(overrides, "method"), parity),
        "inner_method": until(
            inner, *(all_choices if inner.kind == "corrected" else ("method", "aggregation"))
        ),
        "outer_method": until(
            outer, *(all_choices if outer.kind == "corrected" else ("method", "hypergradient"))
        ),
        "truncate_iter": until(truncate, "method", "hypergradient"),
        "first_order": until(_first_order(o, preset, hypergradient), "method", "hypergradient"),
        "use_t": until(extra, "method", "model.extra"),
        "use_warp": _warp(o, preset),
        "reptile": until(_reptile(o), "method"),
    }


def _no_steps(o: Options) -> str:
    """Why BOML did not run its inner_method=Simple, and what is done here; "" where it did."""
    if o.inner_method != "Simple":
        return ""
    here = "here Simple is plain lower steps, as Trad"
    if o.outer_method != "Simple":
        return f"BOML refused Simple with outer_method={o.outer_method}; {here}"
    if o.method != "MetaInit":
        return f"BOML failed on Simple with method={o.method}; {here}"
    return ""


def _no_gradient(o: Options) -> str:
    """The same of its outer_method, where the lower steps were no obstacle."""
    inner, outer = o.inner_method, o.outer_method
    if outer == "Forward":
        return (
            "BOML had none; that of BDA's repository refused Aggr and was right for scalars alone; "
            "here it is exact, up to hypergradient.max_scalars"
        )
    if outer == "Simple" and inner != "Simple":
        here = "first order" if o.first_order else "unrolled, as Reverse"
        return f"BOML refused Simple with inner_method={inner}; here it is {here}"
    if outer == "Implicit" and inner == "Aggr":
        return (
            "BOML refused Implicit with inner_method=Aggr, and so does src.train: aggregated steps "
            "have no resting point"
        )
    if o.method == "MetaInit" and outer != "Simple":
        here = "here it is differentiated"
        if outer == "Implicit":
            here = "src.train refuses it: that derivative is zero"
        return f"BOML failed: its {outer} did not differentiate the start of MetaInit; {here}"
    return ""


def _first_order(o: Options, preset: str, hypergradient: tuple[str, ...]) -> Outcome:
    if not o.first_order:
        return OFF
    if FIRST_ORDER in hypergradient:
        return used(FIRST_ORDER)
    if preset == "method=warp_grad":
        return corrected(
            "BOML dropped all second derivatives; warp_grad keeps those of each single step"
        )
    return without_effect(f"{preset} differentiates nothing")


def _roles(o: Options, preset: tuple[str, ...], parity: bool) -> Outcome:
    """The roles; and the network, which BOML changed with the method."""
    omniglot = o.dataset == "omniglot"
    if o.method == "MetaInit":
        head = "normal" if omniglot else "xavier"
        theirs = ["model.offset=zero", f"problem.head_init={head}"]
        theirs += ["model.features=mean"] * omniglot
    else:
        theirs = ["model.features=mean"] * (omniglot and o.outer_method == "Implicit")
    if parity or not theirs:
        return used(*preset, *theirs)
    return corrected(
        f"the network of every method; BOML took {' '.join(theirs)} (--parity)", *preset
    )


def _warp(o: Options, preset: str) -> Outcome:
    if not o.use_warp:
        return until(OFF, "method", "model.extra")
    if preset != "method=warp_grad":
        return used("model.extra=warp_layers")
    told = corrected(
        "mean of F after each step, through that step; BOML summed F before each step, through "
        "all steps, and left out F after the last",
        "model.extra=warp_layers",
    )
    return until(told, "method", "hypergradient")


def _reptile(o: Options) -> Outcome:
    if not o.reptile:
        return dead("here method=reptile")
    if o.method != "MetaInit":
        return dead('Reptile moves a learned start: "method": "MetaInit" has one, and runs it here')
    return corrected(
        "dead in BOML; its paper has upper_optimizer=sgd upper_optimizer.step_size=1",
        "method=reptile",
    )


def _lower_steps(o: Options, overrides: list[str], parity: bool) -> dict[str, Outcome]:
    law, learned = _of(overrides, "aggregation.law"), _of(overrides, "aggregation.learn")
    step = _of(overrides, "lower_optimizer.learn")
    learn_lr = corrected("tests take the learned step size, BOML the first one (--parity)", *step)
    if parity:
        first = "as in BOML: tests take the first step size, whatever was learned"
        learn_lr = until(used(*step, "test_step_size=initial", note=first), "test_step_size")
    kept, wrong = "kept in [0, 1], which BOML let it leave", "BOML paired steps with wrong alphas"
    off = until(OFF, "method", "aggregation", "aggregation.learn")
    return {
        "T": used(f"num_lower_steps={o.T}"),
        "lr": used(f"lower_optimizer.step_size={o.lr}"),
        "inner_opt": _optimizer(o),
        "learn_lr": learn_lr
        if o.learn_lr
        else until(OFF, "method", "lower_optimizer", "lower_optimizer.learn"),
        "learn_st": corrected("kept at 0 or above, which BOML let them leave", *learned)
        if o.learn_st
        else off,
        "learn_alpha": corrected(kept, *learned) if o.learn_alpha else off,
        "learn_alpha_itr": corrected(f"{kept}; {wrong}", *law, *learned)
        if o.learn_alpha_itr
        else off,
        "alpha": _share(o, bool(law), bool(learned)),
        "bda_s": _factor("s", o.bda_s, bool(law)),
        "bda_t": _factor("t", o.bda_t, bool(law)),
        "alpha_decay": dead("here aggregation.law=geometric aggregation.ratio=0.9, by lower step"),
        "regularization": dead("here problem.lower_l2=0.01 adds an L2 term to f"),
        "batch_norm": dead("batch norm is always on, there and here"),
        "xavier": _head(o),
    }


def _optimizer(o: Options) -> Outcome:
    chosen = f"lower_optimizer={o.inner_opt.lower()}"
    if o.inner_opt == "SGD":
        return used(chosen)
    tested = "tests take it too; BOML tested with SGD"
    cause = ""
    if o.inner_method == "Simple":
        cause = "inner_method=Simple, whose steps were those of SGD"
    elif o.outer_method in ("Implicit", "Darts"):
        cause = f"outer_method={o.outer_method}, which had gradients for SGD alone"
    if not cause:
        return corrected(tested, chosen)
    note = (
        f"BOML failed on {o.inner_opt} with {cause}; here the steps are {o.inner_opt}'s; {tested}"
    )
    groups = ("method", "lower_optimizer", "aggregation", "hypergradient")
    return until(corrected(note, chosen), *groups)


def _share(o: Options, is_aggregated: bool, is_learned: bool) -> Outcome:
    if not is_aggregated:
        return until(without_effect("only inner_method=Aggr has it"), "method", "aggregation")
    equal = o.alpha == 0 and not is_learned
    note = "a share of 0 makes inner_method=Aggr the same as Trad" if equal else ""
    return used(f"aggregation.alpha={o.alpha}", note=note)


def _factor(name: str, value: float, is_aggregated: bool) -> Outcome:
    if is_aggregated:
        return corrected("BOML's script took 1 whatever it said", f"aggregation.{name}={value}")
    return dead(f"here aggregation.{name}, which only inner_method=Aggr has")


def _head(o: Options) -> Outcome:
    if o.method == "MetaInit":
        return until(without_effect("only MetaFeat has it: here the start is learned"), "method")
    if not o.xavier:
        return used("problem.head_init=zeros")
    return used(
        "problem.head_init=xavier", "lower_start=redrawn", note="drawn again in each iteration"
    )


def _of(overrides: list[str], name: str) -> tuple[str, ...]:
    """Those whose key starts with `name`."""
    return tuple(text for text in overrides if text.partition("=")[0].startswith(name))
