"""A tokenizer with all its priors: trained, measured, written down row by row."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablation.measures import Judge, generated, prior_measures, reconstructed
from ablation.pictures import CodeBatches, Sets
from ablation.plan import PriorPlan, Scale, TokenizerPlan, priors_of
from ablation.stages import prior_of, renderer_of, trained
from ablation.tokens import codes_of, describe, open_tokenizer

from digit.files import read_json, remove, write_json_atomic


def measure_tokenizer(
    plan: TokenizerPlan,
    plans: list[TokenizerPlan],
    sets: Sets,
    out: Path,
    scale: Scale,
    *,
    judge: Callable[[], Judge | None],
    updates: dict[str, int],
    deadline: float,
    compile: bool = False,
) -> bool:
    """Do what is not done yet before time.monotonic() reaches `deadline`; whether all rows are measured.

    `updates` are the "steps" of a prior and the "renderer_steps"; `judge` is asked when there is something to
    judge, and gives None when it is not there in time.
    """
    folder = out / "rows" / plan.name
    tokenizer = open_tokenizer(plan, sets, out, scale)
    codes, test_codes = codes_of(plan, tokenizer, sets)
    if not (folder / "tokenizer.json").exists():
        write_json_atomic(folder / "tokenizer.json", describe(plan, tokenizer, sets, codes, scale))
    how: dict[str, Any] = {"batch": scale.batch, "compile": compile}
    renderer = None
    if plan.encoder != "vq":
        renderer = renderer_of(plan.codes, test_codes.shape[1], sets, scale)
        data, steps = CodeBatches(codes, scale.batch, sets.train_vq), updates["renderer_steps"]
        limit = deadline - time.monotonic()
        if not trained(renderer, data, folder / "renderer", steps=steps, total=steps, limit=limit, **how):
            return False
    asked = None
    if not (folder / "reconstruction.json").exists():
        if (asked := judge()) is None:
            return False
        found = reconstructed(test_codes, renderer, sets, asked, scale)
        write_json_atomic(folder / "reconstruction.json", found)
    total = updates["steps"]
    for row in priors_of(plan, plans):
        if (folder / f"{row.name}.json").exists():
            continue
        prior = prior_of(plan.codes, test_codes.shape[1], row.size, scale)
        # Half and whole are one run, measured on the way.
        at, run = max(1, round(total * row.share)), folder / f"prior-{row.size}"
        limit, data = deadline - time.monotonic(), CodeBatches(codes, scale.batch)
        if not trained(prior, data, run, steps=at, total=total, limit=limit, **how):
            return False
        if (asked := asked or judge()) is None:
            return False
        values = {
            **generated(prior, renderer, sets, asked, scale, folder / f"{row.name}.png"),
            **prior_measures(prior, codes, test_codes, sets, scale),
            "steps": at,
            "renderer_steps": 0 if renderer is None else updates["renderer_steps"],
            "epochs": at * scale.batch / len(codes),
            "parameters": sum(parameter.numel() for parameter in prior.parameters()),
            "features": {"name": asked.network.name, "sha256": asked.network.sha256},
            "test_pictures": len(sets.test),
        }
        write_json_atomic(folder / f"{row.name}.json", values)
    write_json_atomic(folder / "done.json", {"rows": [row.name for row in priors_of(plan, plans)]})
    for state in folder.glob("*/state"):
        remove(state)  # of no use any more, and most of the run's size
    return True


def read_row(row: PriorPlan, out: Path) -> dict[str, Any] | None:
    """All that was measured of a row, and of its tokenizer; None where it is not there yet."""
    folder = out / "rows" / row.tokenizer.name
    if not (folder / f"{row.name}.json").exists():
        return None
    values: dict[str, Any] = {
        "name": row.name,
        "tokenizer": row.tokenizer.title,
        "encoder": row.tokenizer.encoder,
    }
    values |= {"codes": row.tokenizer.codes, "size": row.size, "share": row.share}
    for name in ("tokenizer", "reconstruction", row.name):
        values |= read_json(folder / f"{name}.json")
    trained_encoder = out / "encoders" / row.tokenizer.encoder / "trained.json"
    if trained_encoder.exists():
        values["encoder_training"] = read_json(trained_encoder)
    return values
