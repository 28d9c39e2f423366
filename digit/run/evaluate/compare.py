"""`digit evaluate compare`: two results of one measurement side by side."""

from typing import Any

from digit.run.options import File, Positional
from digit.run.table import print_table


def compare_results(a: Positional[File], b: Positional[File]) -> dict[str, Any]:
    """Two results side by side, with b - a; refused unless measured alike, on the same features.

    Example: digit evaluate compare before.json after.json

    Args:
        a: a JSON file that `digit evaluate` wrote.
        b: another of the same measurement.
    """
    from digit.evaluation.result import differences, in_words, read_result

    first, second = read_result(a), read_result(b)
    rows = differences(first, second, names=(str(a), str(b)))
    words = in_words(rows)
    print_table(
        f"{first['measurement']}: {a} and {b}",
        (a.name, b.name if b.name != a.name else str(b), "b - a"),
        {
            words[name]: [None if row[key] is None else f"{row[key]:.6g}" for key in ("a", "b", "difference")]
            for name, row in rows.items()
        },
    )
    if first["counts"] != second["counts"]:
        here, there = (", ".join(f"{n:,} {k}" for k, n in each["counts"].items()) for each in (first, second))
        print(f"measured on unequal numbers of pictures: {here}; {there}")
    return {
        "measurement": first["measurement"],
        "protocol": first["protocol"],
        "features": first["features"],
        "counts": {"a": first["counts"], "b": second["counts"]},
        "values": rows,
    }
