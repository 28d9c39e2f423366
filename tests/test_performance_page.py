"""docs/performance.md is what bench/performance.py writes, and the script says what is missing or not met."""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scripts():
    """The modules of the page; they import each other as scripts do."""
    sys.path.insert(0, str(ROOT / "bench"))
    import performance
    from speeds import costs, goals, growth, plots, results, tables

    sys.path.remove(str(ROOT / "bench"))
    return SimpleNamespace(
        page=performance, costs=costs, goals=goals, growth=growth, plots=plots, results=results, tables=tables
    )


@pytest.fixture
def measured(scripts):
    return scripts.results.Results.read(ROOT / "bench" / "results")


def test_the_page_is_what_the_script_writes(scripts, measured):
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert scripts.page.filled(page, measured) == page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert scripts.page.filled(readme, measured, scripts.page.README) == readme


def test_a_changed_figure_changes_the_page(scripts, measured):
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    files = copy.deepcopy(measured.files)
    rows = files["redesign"]["after"]["rows"]
    row = next(row for row in rows if row["name"] == scripts.goals.KMEANS_AGAIN)
    row["median"] = 61.0
    changed = scripts.page.filled(page, scripts.results.Results(files))
    before, after = (
        next(line for line in text.splitlines() if "distances in float32" in line).split(" | ")
        for text in (page, changed)
    )
    assert after == [
        *(before[0], "61 ms", before[2], before[3]),
        *(before[4], "at most 60 ms", "**no**, 1.7% off |"),
    ]
    with pytest.raises(SystemExit, match="wanted are"):
        scripts.page.filled(page.replace("<!-- figures: costs -->", ""), measured)


def test_what_was_never_run_is_said_until_it_is(scripts, measured):
    goals, results, tables = scripts.goals, scripts.results, scripts.tables
    files = copy.deepcopy(measured.files) | {"vqgan": {}, "sampler": {}}
    files |= {"redesign": {}, "redesign_drawing": {}}
    before = tables.missing(results.Results(files))
    assert any("VQGAN" in line for line in before) and any("whole chain" in line for line in before)
    assert any("LlamaGen" in line for line in before)
    row = {"images_per_s": 2100.0, "share_of_matmul": 0.5, "batch": 64, "peak_gib": 9.0}
    files["vqgan"] = {"decode": {"digit": row, "compiled bfloat16": row | {"images_per_s": 1400.0}}}
    chain = {"name": "whole chain, autoregressive, to pictures in memory", "batch": 1024}
    files["sampler"]["rows"] = [chain | {"images_per_second": 150.0, "milliseconds": 6800.0}]
    prior = {"name": "prior, top-k 200", "batch": 1024, "share_of_limit": 0.5, "peak_gib": 9.0}
    prior |= {"images_per_second": 1000.0, "milliseconds": 1.0}
    rival = {"name": "LlamaGen's code, compiled", "batch": 512, "images_per_second": 400.0}
    rival |= {"milliseconds": 1.0, "prior_images_per_second": 900.0}
    files["sampler"]["rows"] += [prior, rival]
    now = results.Results(files)
    assert "| 2.25 x LlamaGen's, compiled, at batch 512 |" in "\n".join(goals.goals(now))
    assert not any("VQGAN" in line or "whole chain" in line for line in tables.missing(now))
    text = "\n".join(goals.goals(now))
    assert "VQGAN decode, 256 px, batch 64 | 2,100 img/s | 50% | 1.50 x compiled bfloat16 | 9.0 GiB" in text
    assert "whole chain | 150 img/s |  |  |  | at least 190 img/s | **no**, 21.1% off" in text
    assert "Never run: 6" in text  # the samplers of which there is no row here


def test_a_new_largest_kernel_needs_a_new_reason(scripts, measured):
    costs, results = scripts.costs, scripts.results
    files = copy.deepcopy(measured.files)
    files["kmeans"]["profile"]["fit of two iterations"][0]["kernel"] = "another"
    with pytest.raises(ValueError, match="the largest kernel of K-means is another"):
        costs.costs(results.Results(files))


def test_pictures_and_table_of_lengths(scripts, measured, tmp_path):
    files = copy.deepcopy(measured.files)
    files["sampler"]["rows"] = [row for row in files["sampler"]["rows"] if "length" not in row]
    for codes, milliseconds in ((64, 100.0), (256, 500.0)):
        row = {"name": f"prior, length {codes}", "batch": 256, "length": codes}
        files["sampler"]["rows"].append(row | {"milliseconds": milliseconds})
    now = scripts.results.Results(files)
    assert "| 256 | 500 | 1.95 |" in scripts.growth.length(now)
    scripts.plots.draw(now, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"performance-batch.png", "performance-length.png"}


def test_what_was_measured_again_takes_its_place(scripts):
    def row(name: str, batch: int, speed: float) -> dict[str, object]:
        return {"name": name, "batch": batch, "speed": speed}

    first = {"device": "A", "ceilings": 1, "codes": {"x": 1}, "large": {"y": 1}}
    first["rows"] = [row("one", 1, 1.0), row("one", 2, 1.0), row("two", 1, 1.0)]
    again = {"device": "A", "ceilings": 2, "large": {"z": 2}, "rows": [row("one", 2, 2.0)]}
    found = scripts.results.joined([first, again])
    assert found["ceilings"] == 1 and found["codes"] == {"x": 1} and found["large"] == {"z": 2}
    assert found["rows"] == [row("one", 1, 1.0), row("two", 1, 1.0), row("one", 2, 2.0)]
    assert scripts.results.joined([first]) == first
    with pytest.raises(ValueError, match="a run on B cannot be joined to one on A"):
        scripts.results.joined([first, again | {"device": "B"}])
