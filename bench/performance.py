"""docs/performance.md out of the measured JSON: every figure in that page, and its plots, come through here.

    python bench/performance.py [--results bench/results] [--page docs/performance.md] [--smoke]

Rewrites the lines between the marks of the page and of the README, and draws the page's pictures. --smoke
prints the page instead.
"""

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from speeds import costs, goals, growth, tables
from speeds.results import Results

from digit.files import write_text_atomic

ROOT = Path(__file__).parents[1]
PARTS = {
    "goals": goals.goals,
    "redesign": partial(tables.before_after, file="redesign"),
    "seeds": tables.seeds,
    "prices": partial(tables.before_after, file="drawing"),
    "distances": tables.distances,
    "machine": tables.machine,
    "sampling": tables.sampling,
    "agreement": tables.agreement,
    "tokenizer": tables.tokenizer,
    "kmeans": tables.kmeans,
    "training": tables.training,
    "vqgan": tables.convolutions,
    "cpu": tables.cpu,
    "batch": growth.batch,
    "length": growth.length,
    "costs": costs.costs,
    "missing": tables.missing,
}
README = {"speeds": goals.rivals}
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)


def filled(page: str, results: Results, parts: dict[str, Callable[[Results], list[str]]] = PARTS) -> str:
    """The page with every marked part as the results say; each part must be there once."""
    names = [name for _, name, _, _ in MARKED.findall(page)]
    if sorted(names) != sorted(parts):
        raise SystemExit(f"the page marks {sorted(names)}; wanted are {sorted(parts)}")

    def part(found: re.Match[str]) -> str:
        lines = parts[found[2]](results)
        return f"{found[1]}\n" + "\n".join(lines) + f"\n\n{found[4]}"

    return MARKED.sub(part, page)


def main() -> None:
    """Write, or with --smoke print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--smoke", action="store_true", help="write nothing")
    options = parser.parse_args()
    results = Results.read(options.results)
    page = filled(options.page.read_text(encoding="utf-8"), results)
    if options.smoke:
        print(page)
        return
    from speeds import plots  # matplotlib takes a second

    readme = ROOT / "README.md"
    write_text_atomic(options.page, page)
    write_text_atomic(readme, filled(readme.read_text(encoding="utf-8"), results, README))
    plots.draw(results, options.page.parent / "images")


if __name__ == "__main__":
    main()
