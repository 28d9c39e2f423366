"""Measured rows -> ablations.json, ablations.md in the paper's form, and a plot of what predicts distance."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ablation.plan import TYPES, PriorPlan
from ablation.predict import PREDICTORS, correlations, draw_predictors, tokenizer_rows
from ablation.rows import read_row

from digit.evaluation.plots import draw_layers
from digit.evaluation.result import result, write_result
from digit.files import write_text_atomic

PROTOCOL = (
    "unconditional priors on the codes of each tokenizer, all trained for the same updates of the same batch;"
    " a masked renderer of the same size and updates for each tokenizer, one VQGAN for all; Fréchet distance"
    " on the features of a classifier trained in the same run, to the test pictures; of the same settings for"
    " every row the best is shown; token change under Gaussian noise at the pictures' own size"
)
# Figure 4a's table and figure 3a: FID, IS, probe on the prior, probe on the encoder; ImageNet, 256 px.
PAPER_ENCODERS = {
    "mae": (45.51, 18.39, 31.40, 75.8),
    "mocov3": (20.38, 45.02, 59.22, 76.7),
    "ibot": (16.81, 57.88, 61.10, 76.0),
    "vq": (24.38, 30.93, None, None),
}
PAPER_STEPS = ((24.38, 30.93), (9.66, 69.15), (9.13, 73.85), (4.59, 141.29))
FLAT = ("FD", "IS", "prior_bits", "probe_prior", "probe_layer", "probe_encoder", "entropy_bits", "usage")
FLAT = (*FLAT, "token_change_30dB", "token_change_20dB", "token_change_10dB", "reconstruction_FD")
FLAT = (*FLAT, "reconstruction_PSNR", "steps", "renderer_steps", "epochs", "parameters")

Row = dict[str, Any]


def write_report(plans: Sequence[PriorPlan], out: Path, folder: Path, device: torch.device) -> list[str]:
    """Write the four files out of the rows that are there; the names of those that are not."""
    found = {plan.name: read_row(plan, out) for plan in plans}
    rows = [row for row in found.values() if row is not None]
    if rows:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        value = as_result(rows, name)
        write_result(folder / "ablations.json", value)
        write_text_atomic(folder / "ablations.md", page(rows, name))
        draw_predictors(tokenizer_rows(rows), folder / "ablations.png")
        lines = {f"prior, K={row['codes']}": row["probe_layers"] for row in by_codes(rows)}
        levels = {f"encoder, {row['encoder']}": row["probe_encoder"] for row in by_codes(rows)[-1:]}
        title = "linear probe by layer, mean over the start and all codes"
        draw_layers(lines, folder / "probes.png", levels=levels, title=title)
    return [name for name, row in found.items() if row is None]


def as_result(rows: Sequence[Row], device: str) -> dict[str, Any]:
    """The one JSON form, with every row whole beside its flat values."""
    values = [(f"{row['name']}: {key}", float(row[key])) for row in rows for key in FLAT if key in row]
    predicts = correlations(tokenizer_rows(rows))
    values += [(f"Spearman of distance and {key}", each["rho"]) for key, each in predicts.items()]
    value = result(
        "ablations",
        values,
        protocol=PROTOCOL,
        counts={"samples": rows[0]["samples"], "reference": rows[0]["test_pictures"]},
        features=[rows[0]["features"]],
        seed=0,
        settings={"top_p": [each["top_p"] for each in rows[0]["tries"]]},
        device=device,
    )
    return {**value, "rows": list(rows)}


def by_codes(rows: Sequence[Row]) -> list[Row]:
    """The whole rows of the main encoder, which has several K, from the smallest on."""
    encoders = [row["encoder"] for row in tokenizer_rows(rows)]
    main = max(encoders, key=encoders.count) if encoders else None
    return sorted((r for r in tokenizer_rows(rows) if r["encoder"] == main), key=lambda row: row["codes"])


def page(rows: Sequence[Row], device: str) -> str:
    """The tables as Markdown, the paper's rows beside ours."""
    main = next((row for row in rows if row["share"] != 1), rows[0])
    of_main = [row for row in rows if row["encoder"] == main["encoder"]]
    usual = [row for row in tokenizer_rows(rows) if row["codes"] == main["codes"] or row["encoder"] == "vq"]
    vq = [row for row in rows if row["encoder"] == "vq"]
    medium = {
        row["share"]: row for row in of_main if row["size"] == "medium" and row["codes"] == main["codes"]
    }
    large = [row for row in of_main if row["size"] == "large"]
    chain = [vq[0] if vq else None, medium.get(0.5), medium.get(1.0), large[0] if large else None]
    steps = ("VQ codes", "discriminative codes, half the steps", "all steps", "larger prior")
    paper = [f"{fid} / {score}" for fid, score in PAPER_STEPS]
    figure_3a = [
        [
            name,
            *([f"{row['FD']:.2f}", f"{row['IS']:.2f}", str(row["steps"])] if row else ["-"] * 3),
            published,
        ]
        for name, row, published in zip(steps, chain, paper, strict=True)
    ]
    sections = [
        "# Ablations on CIFAR-10",
        "Written by `experiments/ablations.py`; do not edit by hand.",
        f"Machine: {device}. {PROTOCOL[0].upper()}{PROTOCOL[1:]}."
        f" Distances are on {rows[0]['features']['name']}: none of them is FID."
        f" {rows[0]['samples']:,} samples a row; renderers had {max(r['renderer_steps'] for r in rows):,}"
        " updates; one training run each, seed 0, so that small differences may"
        " be chance. Paper: ImageNet, 256 px, FID and IS on InceptionV3.",
        "## From VQ codes to a larger prior (figure 3a)",
        table(["", "FD", "IS", "steps", "paper, FID / IS"], figure_3a),
        "## Encoders (figure 4a and its table)",
        "P patch-level, G global, D discriminative, R reconstructive. Probes are top-1 in %; those of the"
        " paper's encoders are of the published models, ours of the features that are quantised.",
        encoders(usual),
        "## Codes (K)",
        measured(by_codes(rows), lambda r: f"K={r['codes']}"),
        "## Probe by layer and K (figure 3b)",
        "Top-1 in %; layer i is what block i reads, the last what the last block gives.",
        layers(by_codes(rows)),
        "![probe by layer](probes.png)",
        "## Size of the prior",
        measured(
            sorted([r for r in of_main if r["codes"] == main["codes"] and r["share"] == 1], key=_size),
            lambda r: f"{r['size']}, {r['parameters'] / 1e6:.1f}M",
        ),
        "## Steps",
        measured([medium[share] for share in sorted(medium)], lambda r: f"{r['steps']} steps"),
        "## What predicts the generated distance",
        "Spearman's rank correlation with the distance, over all tokenizers at equal prior and steps: near 1"
        " or -1 orders the tokenizers alike, near 0 says nothing.",
        predictors(tokenizer_rows(rows)),
        "![distance against each predictor](ablations.png)",
    ]
    return "\n\n".join(sections) + "\n"


def encoders(rows: Sequence[Row]) -> str:
    """The table of figure 4a, with what else is known of each tokenizer."""
    head = [
        "encoder",
        "type",
        "FD",
        "IS",
        "probe on the prior",
        "probe on the encoder",
        "tokens changed, 20 dB",
    ]
    head += ["entropy, bits", "prior loss, bits", "reconstruction FD", "encoder's epochs"]
    head += ["paper, FID", "IS", "probe on the prior", "probe on the encoder"]
    body = []
    for row in rows:
        published = PAPER_ENCODERS.get(row["encoder"], (None,) * 4)
        epochs = row.get("encoder_training", {}).get("epochs")
        ours = [row["FD"], row["IS"], 100 * row["probe_prior"], 100 * row["probe_encoder"]]
        ours += [
            row["token_change_20dB"],
            row["entropy_bits"],
            row["prior_bits"],
            row["reconstruction_FD"],
            epochs,
        ]
        body.append([row["tokenizer"], TYPES[row["encoder"]], *map(number, ours), *map(number, published)])
    return table(head, body)


def measured(rows: Sequence[Row], name: Callable[[Row], str]) -> str:
    """A table of rows that differ in one thing."""
    head = ["", "FD", "IS", "probe on the prior", "best layer", "prior loss, bits", "entropy, bits"]
    head += ["tokens changed, 20 dB", "reconstruction FD"]
    keys = ("FD", "IS", "probe_prior", "probe_layer", "prior_bits", "entropy_bits", "token_change_20dB")
    body = [
        [
            name(row),
            *(number(row[k] * (100 if k == "probe_prior" else 1)) for k in (*keys, "reconstruction_FD")),
        ]
        for row in rows
    ]
    return table(head, body)


def layers(rows: Sequence[Row]) -> str:
    """A column for each layer, a row for each K."""
    columns = range(max((len(row["probe_layers"]) for row in rows), default=0))
    body = [[f"K={r['codes']}", *(f"{100 * share:.1f}" for share in r["probe_layers"])] for r in rows]
    return table(["", *(f"layer {i}" for i in columns)], body)


def predictors(rows: Sequence[Row]) -> str:
    """Rank correlations, the strongest first."""
    found = correlations(rows)
    order = sorted(found, key=lambda key: -abs(found[key]["rho"]))
    body = [[PREDICTORS[key][0], f"{found[key]['rho']:+.2f}", str(found[key]["n"])] for key in order]
    return table(["", "Spearman", "tokenizers"], body)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None) -> str:
    """Three or four figures; - for none."""
    return "-" if value is None else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def _size(row: Mapping[str, Any]) -> int:
    return int(row["parameters"])
