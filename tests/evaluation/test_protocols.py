"""digit.evaluation.protocols: how many pictures each takes, and the paper's rows."""

import pytest

from digit.errors import DigitError
from digit.evaluation.protocols import (
    ADM,
    CONDITIONAL,
    DIGIT_PAPER,
    FEWEST,
    OWN,
    PROTOCOLS,
    UNCONDITIONAL,
    check_number,
    generation_rows,
)


def test_a_protocol_takes_its_own_number_of_pictures():
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name
        check_number("samples", 50_000, protocol, few=False)
        check_number("samples", 3, protocol, few=True)
        with pytest.raises(DigitError, match="pass few"):
            check_number("samples", 3, protocol, few=False)
    check_number("samples", FEWEST, OWN, few=False)
    check_number("the reference", FEWEST, ADM, few=False, reference=True)
    for protocol, reference in ((DIGIT_PAPER, True), (ADM, False)):
        with pytest.raises(DigitError, match="takes 50000"):
            check_number("pictures", FEWEST, protocol, few=False, reference=reference)


def test_the_rows_that_the_published_weights_reproduce():
    ours = {(row.table, row.method, row.parameters): row for row in UNCONDITIONAL + CONDITIONAL}
    base, large = ours[3, "DiGIT (+VQGAN)", "219M"], ours[4, "DiGIT (+VQGAN)", "732M"]
    assert (base.fid, base.inception_score, base.epochs) == (9.13, 73.85, "400")
    assert (large.fid, large.inception_score) == (3.39, 205.96)
    assert (len(UNCONDITIONAL), len(CONDITIONAL)) == (12, 20)


def test_rows_are_json_with_every_column():
    rows = generation_rows()
    assert len(rows) == 32
    assert all(row["fid"] > 1 and set(row) == set(rows[0]) for row in rows)
