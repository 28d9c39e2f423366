"""docs/reproduction.md out of the measured JSON: every figure in that page comes through here.

python experiments/cifar10/report.py --result bench/results/cifar10.json --out docs/reproduction.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cifar10.reading import ahead, best, encoders, paper, reading, setting
from measuring import words
from measuring.found import Found
from measuring.generation import PLAIN, RIVALS
from measuring.page import sections
from measuring.plan import KINDS
from measuring.scale import CLASS

from digit.files import read_json, write_json_atomic, write_text_atomic

NAMES = {
    "vq_only": "VQ codes only, the DiGIT prior's size and steps",
    "vq_only_compute": "VQ codes only, the compute of prior and renderer together",
    "digit": "DiGIT, autoregressive renderer",
    "digit_masked": "DiGIT, masked renderer (8 steps)",
    "digit_saliency": "DiGIT, tokens of the enlarged ViT-S/14, autoregressive renderer",
}
CASES = {
    "unconditional": ("unconditional", 1.0),
    "conditional, no guidance (the paper's setting)": ("conditional", 1.0),
    "conditional, guidance 2": ("conditional", 2.0),
}


MARK, END = "<!-- results:", "<!-- end -->"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="first collect what the trainings of these runs reached")
    parser.add_argument("--readme", type=Path, help="also rewrite the table between the marks of this file")
    options = parser.parse_args()
    if options.runs:
        write_json_atomic(options.result.parent / "cifar10-parts.json", collected(options.runs))
    if options.readme:
        text = options.readme.read_text(encoding="utf-8")
        before, rest = text.split(MARK, 1)
        note, rest = rest.split("\n", 1)
        after = rest[rest.index(END) :]
        lines = [
            f"{before}{MARK}{note}",
            "",
            *short(Found(options.result.parent / "measurements")),
            "",
            after,
        ]
        write_text_atomic(options.readme, "\n".join(lines))
    write_text_atomic(options.out, page_of(options.result))


def page_of(path: Path) -> str:
    """The page of a result file and of what lies beside it."""
    folder = path.parent
    ablations = read_json(folder / "ablations" / "ablations.json")["rows"]
    parts = read_json(folder / "cifar10-parts.json")
    return page(read_json(path), parts, Found(folder / "measurements"), ablations)


def collected(runs: Path) -> dict[str, Any]:
    """What the classifier, the VQGAN and the encoders reached, from the files that their trainings left."""
    own, distilled = read_json(runs / "ssl" / "result.json"), read_json(runs / "distilled" / "result.json")
    return {
        "classifier": read_json(runs / "classifier" / "result.json"),
        "vqgan": read_json(runs / "vqgan" / "status.json"),
        "encoders": {
            "own_steps": own["step"],
            "own_seconds": read_json(runs / "ssl" / "status.json")["seconds"],
            "distilled_steps": read_json(runs / "distilled" / "status.json")["step"],
            "distilled_seconds": read_json(runs / "distilled" / "status.json")["seconds"],
            "own_neighbours": own["values"]["knn_block"],
            "large_neighbours": distilled["knn_teacher"],
            "distilled_neighbours": distilled["knn_student"],
        },
    }


def short(measured: Found) -> list[str]:
    """The README's table: DiGIT's better renderer beside the better prior over VQ codes alone."""
    rows = []
    for way, title in KINDS.items():
        for plain in ("", PLAIN) if way == CLASS else ("",):
            for by in measured.distances:
                ours, theirs = (
                    min(row["values"][by] for row in winners if row)
                    for winners in (
                        [measured.winner(system, way, by + plain) for system in systems]
                        for systems in (("digit", "masked"), RIVALS)
                    )
                )
                figures = words.number(ours), words.number(theirs), words.ahead(ours, theirs)
                rows.append([title + plain, by.rsplit("-", 1)[0], *figures])
    return words.table(["CIFAR-10", "distance", "DiGIT", "VQ codes alone", "DiGIT is"], rows)[:-1]


def page(
    result: dict[str, Any],
    parts: dict[str, Any],
    measured: Found,
    ablations: Sequence[dict[str, Any]] = (),
) -> str:
    """The whole page as Markdown: the comparison, then the measurements that there are."""
    later = "sweep-digit-free" in measured.results
    distance = next(key for key in result["vqgan"] if key.startswith("FD-classifier"))
    other = next(key for key in result["vqgan"] if key.startswith("FD-squeezenet"))
    lines = [
        "# The paper's comparison on CIFAR-10",
        "",
        (
            "Written by `experiments/cifar10/report.py` from `bench/results/cifar10.json`; do not edit by"
            " hand. The whole experiment: `experiments/cifar10.sh all DATA`."
        ),
        "",
        (
            f"Machine: {result['machine']}. {result['samples']:,} samples per figure, seeds"
            f" {result['seeds']}, classes in turn; reference: {result['reference']}. One training run"
            " each, seed 0, so differences of a few per cent may be chance. A Fréchet distance is"
            " named after its features; none of them is FID."
        ),
        "",
        (
            f"- **{distance}**: an independent CIFAR-10 classifier,"
            f" {parts['classifier']['test_accuracy']:.1%} accurate on the test pictures. The pictures are"
            " JPEG copies of about 900 bytes; on them this network stayed below the 93 % that was asked for."
        ),
        f"- **{other}**: SqueezeNet 1.1, trained on ImageNet, at 32 px.",
        "",
        "## Reconstruction: what the VQGAN costs",
        "",
        (
            f"{result['vqgan']['codes']} codes of {result['vqgan']['vocabulary']:,}: PSNR"
            f" {result['vqgan']['psnr']:.1f} dB, {distance} **{result['vqgan'][distance]:.2f}** (asked: at"
            f" most 7 with 64 codes; a short trial before this project: 14.7 on its own classifier), {other}"
            f" {result['vqgan'][other]:.1f}. Trained for {parts['vqgan']['step']:,} steps of 256 (of"
            f" {parts['vqgan']['steps']:,} planned: the machine's time ended)."
        ),
        "",
        "## Generation",
        "",
        (
            "Every system draws with every setting of one grid, the same for all of its stages; its best by"
            f" the first distance is shown. Grid: {', '.join(setting(each) for each in result['settings'])}."
            " The best top-p is the lowest that was measured, for every system: still lower ones may be"
            " better for all."
        ),
    ]
    for title, (kind, guidance) in CASES.items():
        winners = {
            name: best(entry[kind], distance, guidance)
            for name, entry in result["systems"].items()
            if kind in entry
        }
        winners = {name: each for name, each in winners.items() if each is not None}
        base = {n: winners[n][distance] for n in ("vq_only", "vq_only_compute") if n in winners}
        lines += [
            "",
            f"### {title}",
            "",
            f"| | {distance} | against VQ only, same steps | same compute | class recognised | setting |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for name in NAMES:
            if name in winners:
                each = winners[name]
                against = [
                    ahead(each[distance], base.get(rival), name) for rival in ("vq_only", "vq_only_compute")
                ]
                accuracy = next((f"{v:.1%}" for k, v in each.items() if k.startswith("class accuracy")), "")
                lines.append(
                    f"| {NAMES[name]} | {each[distance]:.2f} | {' | '.join(against)} | {accuracy} |"
                    f" {setting(each)} |"
                )
    lines += [
        "",
        "### The winners on everything",
        "",
        "Each system's best setting by the first distance, measured on the second network too.",
        "",
    ]
    lines += [
        f"| | | {distance} | {other} | precision | recall | IS-classifier |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("unconditional", "conditional"):
        for name, entry in result["systems"].items():
            if kind in entry:
                values = entry[kind]
                found = [
                    next((v for k, v in values.items() if k.startswith(start)), 0.0)
                    for start in (
                        distance,
                        other,
                        "precision-classifier",
                        "recall-classifier",
                        "IS-classifier",
                    )
                ]
                shown = " | ".join(f"{value:.2f}" for value in found)
                lines.append(f"| {kind} | {NAMES[name]} | {shown} |")
    lines += reading(result, parts, distance, other, later=later)
    lines += [*encoders(result, parts, distance), *paper()]
    lines += sections(measured, ablations, parts["classifier"]["test_accuracy"])
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    main()
