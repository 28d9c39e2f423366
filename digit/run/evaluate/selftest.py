"""`digit evaluate selftest`: do the measurements give the values they must on this machine?"""

from typing import Any

from digit.errors import DigitError
from digit.run.options import Device
from digit.run.table import print_table


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

    where = choose_device(device)
    found = list(checks(where))
    rows = {
        check.name: (
            check.error,
            f"{check.limit:.1g}",
            "left out" if check.error is None else "ok" if check.passed else "FAILED",
        )
        for check in found
    }
    print_table(f"self-test on {where}", ("error", "at most", ""), rows)
    failed = [check for check in found if not check.passed]
    if failed:
        named = ", ".join(f"{check.name} ({check.error:.2g})" for check in failed)
        raise DigitError(f"the self-test failed on {where}: {named}; do not trust distances measured here")
    return measurement.record(
        "selftest",
        [(check.name, check.error) for check in found if check.error is not None],
        where,
        protocol=f"errors against closed forms, and against torch-fidelity ({PARITY:g} at most)",
        counts={"checks": sum(check.error is not None for check in found)},
        settings={"left_out": [check.name for check in found if check.error is None]},
    )
