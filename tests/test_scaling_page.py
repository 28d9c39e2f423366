"""docs/scaling.md is what experiments/scaling_page.py writes, and the plan's numbers are right by hand."""

import re
from pathlib import Path

import pytest
from growing import plan
from scaling_page import PARTS, ROOT, filled

RESULTS = ROOT / "bench" / "results"
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_script_writes():
    # The estimate of memory takes seconds; tests/training/test_estimate.py compares it with measured peaks.
    assert filled(PAGE, RESULTS, but=("memory",)) == PAGE
    assert "memory" in PARTS and "| 219M | 256 |" in PAGE


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert target.startswith("http") or (Path(ROOT / "docs") / target).exists(), target


def test_numbers_by_hand():
    task = plan.Plan()
    assert plan.code_bytes(task) == 512e9
    assert task.hosts == 13 and task.process_memory == 64e9
    assert plan.parameters(plan.shape_of("base")) == pytest.approx(218.6e6, rel=2e-3)
    assert plan.flops(plan.shape_of("base")) == pytest.approx(
        328.565e9, rel=1e-5
    )  # as tests/training/test_flops
    measured = plan.Measured.read(RESULTS)
    largest = max(measured.order_seconds)
    assert measured.order(largest) == pytest.approx(measured.order_seconds[largest])
    # Young: saving costs 2 s, a failure every 10,000 s on average: 200 s.
    row = plan.restarts(plan.Plan(gpus=10**5, mtbf=10**5 * 10**4 / 3600))[3]
    assert row[0] == "100,000" and row[1] == "3 h"
    assert (
        plan.size(4.1e12) == "4.1 TB" and plan.spell(5400) == "1.5 h" and plan.rounded(66e6) == "70,000,000"
    )


def test_what_breaks_first_comes_first():
    rows = plan.breaks(plan.Plan(), plan.Measured.read(RESULTS))
    limits = [int(row[0].replace(",", "")) for row in rows[:-1]]
    assert limits == sorted(limits) and len(rows) >= 7
