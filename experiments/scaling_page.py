"""docs/scaling.md: its measured tables, its plots and its plan on paper, written from bench/results.

    python experiments/scaling_page.py [--results bench/results] [--page docs/scaling.md]

Rewrites the lines between the marks of the page and draws docs/images/scaling.png. Cost: seconds on a CPU.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from growing import plan, tables

from digit.files import write_text_atomic

ROOT = Path(__file__).parents[1]
PLAN = plan.Plan()
PARTS: dict[str, Callable[[Path], list[str]]] = {
    "data": tables.data,
    "model": tables.model,
    "memory": tables.memory,
    "gpus": tables.gpus,
    "soak": tables.soak,
    "storage": lambda results: tables.table(("what", "", "bytes"), plan.storage(PLAN)),
    "hours": lambda results: tables.table(
        ("step", "at", "takes"), plan.hours(PLAN, plan.Measured.read(results))
    ),
    "costs": lambda results: tables.table(
        ("prior", "updates", "time", "GPU-hours", f"at {PLAN.price} an hour"), plan.costs(PLAN)
    ),
    "network": lambda results: tables.table(
        ("batch of all", "loss and gradient", "exchange", "of the time computing"), plan.network(PLAN)
    ),
    "restarts": lambda results: tables.table(
        ("GPUs", "between failures", "saving", "costs", "best interval", "time lost"), plan.restarts(PLAN)
    ),
    "breaks": lambda results: tables.table(
        ("pictures", "what gives way", f"at {PLAN.pictures:,}", "instead"),
        plan.breaks(PLAN, plan.Measured.read(results)),
    ),
}
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)


def filled(page: str, results: Path, *, but: tuple[str, ...] = ()) -> str:
    """The page with every marked part as the results say, and those in `but` as they are."""
    names = [name for _, name, _, _ in MARKED.findall(page)]
    if sorted(names) != sorted(PARTS):
        raise SystemExit(f"the page marks {sorted(names)}; wanted are {sorted(PARTS)}")

    def part(found: re.Match[str]) -> str:
        if found[2] in but:
            return found[0]
        return f"{found[1]}\n" + "\n".join(PARTS[found[2]](results)) + f"\n\n{found[4]}"

    return MARKED.sub(part, page)


def main() -> None:
    """Write the page and its plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "scaling.md")
    options = parser.parse_args()
    write_text_atomic(options.page, filled(options.page.read_text(encoding="utf-8"), options.results))
    from growing import plots  # matplotlib takes a second

    plots.draw(options.results, options.page.parent / "images" / "scaling.png")


if __name__ == "__main__":
    main()
