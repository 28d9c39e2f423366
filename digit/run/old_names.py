"""Verbs and options that were renamed or went, and what takes their place: looked up when parsing fails."""

RECIPES = {
    **dict.fromkeys(("base", "base_400", "base_cond", "base_cond_400"), "prior"),
    **dict.fromkeys(("large", "large_cond", "vq_only", "ablation_39m"), "prior"),
    **dict.fromkeys(("renderer_ar", "renderer_masked"), "renderer"),
    "linear_probe": "probe",
}
VERBS = {f"train {name}": f"train {stage} --recipe {name}" for name, stage in RECIPES.items()}

# (verb, old option) -> what to say after "--old": "is now --new" or why it went. The verb "" stands for any.
OPTIONS = {
    ("", "--limit"): "is now --num",
    ("", "--board"): "is now --gpu",
    ("", "--boards"): "is now --gpus",
    ("", "--mfu"): "is gone: hours rest on measured rates",
    ("", "--kernels"): "is gone: training takes its kernels where they run, --no-compile switches them off",
    ("", "--learning-rates"): "is now --lr-factors",
    ("evaluate sweep", "--model"): "is now the first argument, without a name: digit evaluate sweep MODEL",
    ("evaluate reconstruction", "--model"): (
        "is now the first argument, without a name: digit evaluate reconstruction MODEL"
    ),
    ("evaluate prefix", "--models"): (
        "are now the first arguments, without a name: digit evaluate prefix MODEL ..."
    ),
    ("fit", "--precision"): "is gone: distances are always exact",
    ("tokenize", "--precision"): "is gone: distances are always exact",
}


def renamed(verb: str, option: str) -> str | None:
    """A sentence about an option that `verb` took once, or None."""
    said = OPTIONS.get((verb, option)) or OPTIONS.get(("", option))
    return None if said is None else f"{option} {said}"
