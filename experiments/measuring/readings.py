"""Prefixes, probes, reconstructions, projections -> their sections of the page."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from measuring.found import Found
from measuring.plan import KINDS, SYSTEMS
from measuring.plots import probe_layers
from measuring.scale import FREE
from measuring.words import number, picture, table

from digit.evaluation.prefix import PAPER, Point
from digit.run.evaluate.completions import PAPER as ROWS


def prefixes(found: Found) -> list[str]:
    """Figure 4b."""
    lines: list[str] = []
    for way, title in KINDS.items():
        curves = {system: found.points(system, way) for system in ("digit", "vq")}
        curves = {system: points for system, points in curves.items() if points}
        if not curves:
            continue
        lengths = sorted({point.prefix for points in curves.values() for point in points})
        rows = []
        for distance in found.distances:
            for system, points in curves.items():
                at = {point.prefix: point.values[distance] for point in points}
                rows.append([distance, SYSTEMS[system], *(number(at.get(n), 1) for n in lengths)])
        lines += [f"**{title[0].upper()}{title[1:]}**", "", *table(["", "", *lengths], rows)]
    if not lines:
        return []
    count = next(r for n, r in found.results.items() if n.startswith("prefix-"))["counts"]["samples"]
    return [
        "### Real codes as a prefix (figure 4b)",
        "",
        (
            f"{count:,} test pictures; the first n of 64 codes are given, the prior draws the others (top-p"
            " 0.9, no guidance), the renderer draws VQ codes for all. As in the paper the reference is the"
            " same held-out pictures, which no stage was trained on; so the last column is reconstruction."
            f" Paper, {PAPER}."
        ),
        "",
        *lines,
        *picture("prefix.png", "distance against the length of the prefix"),
        *_flatness(found),
        *_sources(found),
    ]


def flatness(points: Sequence[Point], distance: str) -> dict[str, float] | None:
    """Of a curve from no codes to all: what all are worth, and the share of it that a quarter of them is."""
    at = {point.prefix: point.values[distance] for point in points}
    ends = points[0].length if points else 0
    if 0 not in at or ends not in at or ends // 4 not in at:
        return None
    fall = at[0] - at[ends]
    return {"start": at[0], "end": at[ends], "fall": fall, "quarter": (at[0] - at[ends // 4]) / fall}


def needed(points: Sequence[Point], distance: str, level: float) -> float:
    """How long a prefix brings a curve down to a level, between its points along straight lines."""
    for before, after in pairwise(points):
        high, low = before.values[distance], after.values[distance]
        if high <= level:
            return float(before.prefix)
        if low <= level:
            return before.prefix + (after.prefix - before.prefix) * (high - level) / (high - low)
    return math.inf


def _flatness(found: Found) -> list[str]:
    rows = []
    for way, title in KINDS.items():
        for distance in found.distances:
            curves = {s: found.points(s, way) for s in ("digit", "vq")}
            shapes = {s: flatness(points, distance) for s, points in curves.items()}
            ours, theirs = shapes["digit"], shapes["vq"]
            if ours is None or theirs is None:
                continue
            catch = needed(curves["vq"], distance, ours["start"])
            if theirs["start"] <= ours["start"]:
                words = "it is lower without any"
            else:
                words = f"{catch:.0f} codes" if math.isfinite(catch) else "never"
            flatter = "flatter" if ours["fall"] < theirs["fall"] else "**steeper**"
            rows.append([title, distance, *(f"{s['fall']:.1f}" for s in (ours, theirs)), flatter, words])
    if not rows:
        return []
    head = ["", "distance", "falls by, DiGIT", "falls by, VQ codes", "DiGIT's curve is"]
    return [
        "From no given code to all of them:",
        "",
        *table([*head, "VQ codes reach what DiGIT has without a prefix after"], rows),
    ]


def _sources(found: Found) -> list[str]:
    rows = []
    for system, title in SYSTEMS.items():
        points = {kind: found.points(system, FREE, kind) for kind in ("prefix", "prefix_train")}
        for distance in found.distances:
            test = {point.prefix: point.values[distance] for point in points["prefix"]}
            for point in points["prefix_train"]:
                if point.prefix in test:
                    figures = test[point.prefix], point.values[distance]
                    rows.append([title, distance, point.prefix, *(number(value, 1) for value in figures)])
    if not rows:
        return []
    return [
        (
            "A check of the protocol: codes of training pictures instead, still against the test pictures, so"
            " that no reference picture is the source of a completion (but priors and renderer have seen the"
            " sources in training):"
        ),
        "",
        *table(["", "distance", "codes given", "of test pictures", "of training pictures"], rows),
    ]


def probes(found: Found, ablations: Sequence[dict[str, Any]]) -> list[str]:
    """Table 2 and figure 3b; K is the ablations' dimension."""
    probe = found.get("probe")
    if probe is None:
        return []
    layers = probe_layers(probe)
    widest = max(map(len, layers.values()))
    rows = []
    for title, shares in layers.items():
        cells = [f"{100 * share:.1f}" for share in shares] + [""] * (widest - len(shares))
        rows.append([title, *cells])
    lines = [
        "### Linear probes by layer (table 2, figure 3b)",
        "",
        f"{probe['protocol'][0].upper()}{probe['protocol'][1:]}. Top-1 on the test pictures, per cent:",
        "",
        *table(["", *range(widest)], rows),
        *picture("probe.png", "top-1 by layer"),
    ]
    by_k = sorted(
        (row["codes"], 100 * row["probe_prior"])
        for row in ablations
        if row["encoder"] == "distilled" and row["size"] == "medium" and row["share"] == 1
    )
    ours, theirs = (max(layers[name]) for name in list(layers)[:2])
    lines += [
        (
            f"Best layers: {100 * ours:.1f} % for the prior over discriminative codes,"
            f" {100 * theirs:.1f} % for the one over VQ codes; both priors have the same size and saw no"
            " labels here. Paper: 71.7 % (219M) and 80.3 % (732M) on ImageNet, above iGPT and VIM of more"
            " parameters, which read pixels or VQ codes."
            + (
                " By K, the best layer of the shorter runs in the"
                f" [ablations](../bench/results/ablations/ablations.md): {_by_k(by_k)}."
                if by_k
                else ""
            )
        ),
        "",
    ]
    return lines


def _by_k(pairs: Sequence[tuple[int, float]]) -> str:
    words = ", ".join(f"{share:.1f} % at K = {codes:,}" for codes, share in pairs)
    rising = all(a[1] < b[1] for a, b in pairwise(pairs))
    return words + (", rising with K as in the paper's figure" if rising else ", not rising throughout")


def reconstructions(found: Found) -> list[str]:
    """The rows "DiGIT + VQ" and "VQ only" of table 3."""
    result = found.get("reconstruction")
    if result is None:
        return []
    masked = found.get("reconstruction-masked")
    sources = [("VQ only", "VQ only", result), ("DiGIT + VQ, autoregressive renderer", "DiGIT + VQ", result)]
    if masked is not None:
        sources.append(("DiGIT + VQ, masked renderer", "DiGIT + VQ", masked))
    names = [each["name"] for each in result["features"]]
    rows = []
    for title, key, source in sources:
        values = [source["values"].get(f"{key}: {what}") for what in ("PSNR", *(f"FD-{n}" for n in names))]
        score = source["values"].get(f"{key}: IS-{names[0]}")
        published = ROWS[f"paper, {key}"]
        rows.append([title, *map(number, values), number(score), f"{published[0]} / {published[1]}"])
    real = result["values"].get(f"real pictures: IS-{names[0]}")
    rows.append(["real pictures", "", *("" for _ in names), number(real), ""])
    head = ["", "PSNR, dB", *(f"FD-{name}" for name in names), f"IS-{names[0]}", "paper, FID / IS"]
    return [
        "### Reconstruction (the last rows of table 3)",
        "",
        f"{result['counts']['pictures']:,} test pictures through their own codes; the floor of each chain.",
        "",
        *table(head, rows),
        *picture("reconstruction.png", "test pictures, by DiGIT + VQ, by VQ only"),
    ]


def projections(found: Found) -> list[str]:
    """Figure 5."""
    sets = {
        "projection": "CIFAR-10, the bundled tokenizer",
        "projection-photos": "photos of clothes at 256 px, `vits14-saliency`",
    }
    there = {title: r for name, title in sets.items() if (r := found.get(name)) is not None}
    if not there:
        return []
    values = next(iter(there.values()))["values"]
    nuisances = [n.split("nuisance ")[1] for n in values if n.startswith("toy: PCA accuracy")]
    rows = [
        [name, *(number(values[f"toy: {name} accuracy, nuisance {n}"]) for n in nuisances)]
        for name in ("PCA", "LDA")
    ]
    lines = [
        "### Two views of a space (figure 5)",
        "",
        (
            "The toy: two classes, and noise that grows along an axis that says nothing about them. Share"
            " whose nearest class mean is right along one direction, on points that fitted nothing, by the"
            " noise's deviation:"
        ),
        "",
        *table(["", *nuisances], rows),
        *picture("projection-toy.png", "the toy under growing noise"),
    ]
    for title, result in there.items():
        values = result["values"]
        noises = [n.split(", ")[1] for n in values if n.startswith("features: PCA accuracy")]
        counts = result["counts"]
        rows = [
            [name, *(f"{100 * values[f'features: {name} accuracy, {n}']:.1f}" for n in noises)]
            for name in ("PCA", "LDA")
        ]
        lines += [
            (
                f"**{title[0].upper()}{title[1:]}**, {counts['pictures']:,} pictures of {counts['classes']}"
                " classes, features pooled over positions, Gaussian noise on pixels; per cent right along the"
                " first two directions, half of the pictures unseen:"
            ),
            "",
            *table(["", *noises], rows),
            *picture(
                "projection-photos.png"
                if result is found.get("projection-photos")
                else "projection-features.png",
                "real features along PCA's and LDA's directions",
            ),
        ]
    return lines
