"""Results -> the second half of docs/reproduction.md: the paper's measurements, and what agrees with it."""

from collections.abc import Sequence
from typing import Any

from measuring.found import Found
from measuring.generation import RIVALS, generation, margin
from measuring.plan import KINDS, SYSTEMS, parts
from measuring.plots import probe_layers
from measuring.readings import flatness, prefixes, probes, projections, reconstructions
from measuring.scale import CLASS, FREE, FULL
from measuring.words import listed, table, verdict

ASKED = 0.93  # accuracy of the classifier


def sections(found: Found, ablations: Sequence[dict[str, Any]], judge_before: float) -> list[str]:
    """Markdown lines; a section for each measurement that there is a result of."""
    if not found.results:
        return []
    measured = [
        *generation(found),
        *prefixes(found),
        *probes(found, ablations),
        *reconstructions(found),
        *projections(found),
    ]
    return [
        "",
        "## The paper's measurements",
        "",
        (
            "By `experiments/measurements.py`, from `bench/results/measurements/`. The bundled model as it"
            " lies on disk, in 8 bits, beside a VQ-only prior of the same shape, steps and storage that the"
            " same run trained. One training run each."
        ),
        "",
        *_judges(found, judge_before),
        *_not_run(found),
        *_agreement(found),
        *measured,
    ]


def _judges(found: Found, before: float) -> list[str]:
    result = found.get("classifier")
    if result is None:
        return []
    name, training = result["features"][0]["name"], result["settings"]
    accuracy = result["values"][f"class accuracy-{name}"]
    epochs = training["steps"] * training["batch"] / 50_000
    met = "met" if accuracy >= ASKED else "**not met**"
    options = dict(zip(training["options"][::2], training["options"][1::2], strict=True))
    text = (
        f"The classifier was trained anew and is another network than above: {accuracy:.1%} right on the test"
        f" pictures ({ASKED:.0%} asked: {met}; the one above: {before:.1%}), so its distances cannot be set"
        f" beside those above. It has {training['width']} channels at first instead of 64 and {epochs:.0f}"
        f" epochs (above: 41); {100 * training['mix']:.0f} % of its training pictures got a part of another"
        f" (CutMix); its gradient is cut at norm {options.get('--clip', '1')} instead of 1, its peak learning"
        f" rate is {options.get('--lr', '0.2')} instead of 0.2. Which of these matters was not tried one by"
        " one. The pictures are JPEG copies of quality 75 with colours at half the resolution."
    )
    machines = f" Machine: {listed(found.machines)}." if found.machines else ""
    return [text + machines, ""]


def _not_run(found: Found) -> list[str]:
    """Which of the full plan's parts left no result; those after another part are not named twice."""
    kinds = {"prefix": "real codes as a prefix", "sweep": "sampling settings and their best"}
    left = {
        (kinds[kind], SYSTEMS[system], KINDS[way])
        for part in parts(FULL)
        for kind, _, rest in [part.name.partition("-")]
        if kind in kinds and part.name not in found.results
        for system, way in [rest.split("-")]
    }
    if not left:
        return []
    words = [
        f"{kind}, of {system} ({' and '.join(sorted(w for k, s, w in left if (k, s) == (kind, system)))})"
        for kind, system in sorted({(kind, system) for kind, system, _ in left})
    ]
    return [f"**Not run in time**, and so missing below: {'; '.join(words)}.", ""]


def _agreement(found: Found) -> list[str]:
    rows = [*_margins(found), *_curves(found), *_probe(found), *_projection(found)]
    if not rows:
        return []
    return ["### Where the small scale agrees with the paper", "", *table(["claim", "here", ""], rows)]


def _margins(found: Found) -> list[list[str]]:
    claims = {
        FREE: "Without classes discriminative codes give better pictures (FID 24.38 to 9.13)",
        CLASS: "By class, without guidance, they do too (18.65 to 4.79)",
    }
    rows = []
    for way, claim in claims.items():
        more = ", no guidance" if way == CLASS else ""
        known = {
            (distance, rival): share
            for distance in found.distances
            for rival in RIVALS
            if (share := margin(found, way, distance + more, rival)) is not None
        }
        if known:
            words = [
                f"{abs(share):.0%} {'ahead' if share >= 0 else 'behind'} on {distance.split('-')[1]}"
                f" ({RIVALS[rival]})"
                for (distance, rival), share in known.items()
            ]
            signs = {share > 0 for share in known.values()}
            rows.append([claim, "; ".join(words), verdict(signs.pop() if len(signs) == 1 else None)])
    return rows


def _curves(found: Found) -> list[list[str]]:
    rows = []
    for way, title in KINDS.items():
        for distance in found.distances:
            shapes = [flatness(found.points(system, way), distance) for system in ("digit", "vq")]
            if None not in shapes:
                ours, theirs = (shape["fall"] for shape in shapes if shape)
                words = f"falls by {ours:.1f} against {theirs:.1f} on {distance.split('-')[1]}"
                claim = f"The curve over the prefix is flatter, {title}"
                rows.append([claim, words, verdict(ours < theirs)])
    return rows


def _probe(found: Found) -> list[list[str]]:
    probe = found.get("probe")
    if probe is None:
        return []
    layers = list(probe_layers(probe).values())
    ours, theirs = max(layers[0]), max(layers[1])
    words = f"{100 * ours:.1f} % against {100 * theirs:.1f} %"
    claim = "A prior over discriminative codes knows more of the class than one over VQ codes"
    return [[claim, words, verdict(ours > theirs)]]


def _projection(found: Found) -> list[list[str]]:
    rows = []
    for name, title in (("projection", "CIFAR-10"), ("projection-photos", "photos")):
        result = found.get(name)
        if result is not None:
            values = result["values"]
            noises = [n.split(", ")[1] for n in values if n.startswith("features: PCA accuracy")]
            better = sum(
                values[f"features: LDA accuracy, {n}"] > values[f"features: PCA accuracy, {n}"]
                for n in noises
            )
            words = f"in {better} of {len(noises)} noises, {title}"
            claim = "Under noise LDA's directions tell classes apart better than PCA's"
            rows.append([claim, words, verdict(better == len(noises))])
    return rows
