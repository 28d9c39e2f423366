"""`digit evaluate compare` and `selftest`: earlier results side by side; is the arithmetic right here?"""

from typing import Any

from digit.calls import checked
from digit.errors import DigitError
from digit.printing import put
from digit.run.options import Device, File, Positional
from digit.run.table import print_table


@checked
def compare_results(a: Positional[File], b: Positional[File]) -> dict[str, Any]:
    """Two results side by side, with b - a; refused unless measured alike, on the same features.

    Example: digit evaluate compare before.json after.json

    Args:
        a: a JSON file that `digit evaluate` wrote.
        b: another of the same measurement.
    """
    from digit.evaluation.result import differences, in_words, read_result

    first, second = read_result(a), read_result(b)
    values = differences(first, second, names=(str(a), str(b)))
    words = in_words(values)
    rows = {
        words[name]: [None if number is None else f"{number:.6g}" for number in row.values()]
        for name, row in values.items()
    }
    columns = a.name, b.name if b.name != a.name else str(b), "b - a"
    print_table(f"{first['measurement']}: {a} and {b}", columns, rows)
    if first["counts"] != second["counts"]:
        here, there = (", ".join(f"{n:,} {k}" for k, n in each["counts"].items()) for each in (first, second))
        put(f"measured on unequal numbers of pictures: {here}; {there}")
    alike = {part: first[part] for part in ("measurement", "protocol", "features")}
    return {**alike, "counts": {"a": first["counts"], "b": second["counts"]}, "values": values}


@checked
def selftest(*, device: Device | None = None) -> dict[str, Any]:
    """Closed-form Gaussians, merged statistics, torch-fidelity's own values; exit code 2 if one is off.

    Needs no weights and no pictures, takes seconds. Without torch-fidelity (pip install torch-fidelity) the
    comparison with it is left out, and the table says so.

    Example: digit evaluate selftest --device cuda

    Args:
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    from digit.evaluation.selftest import PARITY, checks
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement

    where = choose_device(device, float64=True)
    found = list(checks(where))
    made = {check.name: check.error for check in found if check.error is not None}
    words = ["left out" if each.error is None else "ok" if each.passed else "FAILED" for each in found]
    rows = {c.name: (c.error, f"{c.limit:.1g}", word) for c, word in zip(found, words, strict=True)}
    print_table(f"self-test on {where}", ("error", "at most", ""), rows)
    failed = [f"{check.name} ({check.error:.2g})" for check in found if not check.passed]
    if failed:
        raise DigitError(
            f"the self-test failed on {where}: {', '.join(failed)}; do not trust distances measured here"
        )
    return measurement.record(
        "selftest",
        made.items(),
        where,
        protocol=f"errors against closed forms, and against torch-fidelity ({PARITY:g} at most)",
        counts={"checks": len(made)},
        settings={"left_out": [name for name in rows if name not in made]},
    )
