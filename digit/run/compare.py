"""`digit evaluate compare`: two results of one measurement side by side."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from digit.evaluation.result import differences, read_result
from digit.run.table import print_table


def compare_results(
    a: Annotated[Path, tyro.conf.Positional], b: Annotated[Path, tyro.conf.Positional]
) -> dict[str, Any]:
    """Two results side by side, with b - a; refused unless measured alike, on the same features.

    Args:
        a: a JSON file that `digit evaluate` wrote.
        b: another of the same measurement.
    """
    first, second = read_result(a), read_result(b)
    rows = differences(first, second, names=(str(a), str(b)))
    print_table(
        f"{first['measurement']}: {first['protocol']}",
        (a.name, b.name if b.name != a.name else str(b), "b - a"),
        {
            name: [None if row[key] is None else f"{row[key]:.6g}" for key in ("a", "b", "difference")]
            for name, row in rows.items()
        },
    )
    return {
        "measurement": first["measurement"],
        "protocol": first["protocol"],
        "features": first["features"],
        "counts": {"a": first["counts"], "b": second["counts"]},
        "values": rows,
    }
