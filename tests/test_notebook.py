"""docs/notebook.ipynb runs from its first cell to its last, holds no outputs, and installs the package."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
LAST = """
import json
print(json.dumps({"drawn": drawn.pixels.shape, "completed": completed.pixels.shape, "changes": changes,
                  "figures": len(shown)}))
"""
FIRST = """
import matplotlib.pyplot
shown = []
matplotlib.pyplot.show = lambda: shown.append(matplotlib.pyplot.gcf()) or matplotlib.pyplot.close()
"""


def test_the_first_cell_installs_and_no_other_is_more_than_python():
    assert "%pip install" in CELLS[0] and "digit-image" in CELLS[0]
    assert not [line for cell in CELLS[1:] for line in cell.splitlines() if line.startswith(("%", "!"))]


def test_it_holds_no_outputs():
    assert not [cell for cell in NOTEBOOK["cells"] if cell.get("outputs") or cell.get("execution_count")]


def test_its_cells_run(tmp_path):
    """In an interpreter of their own, where no types are checked, which takes most of the time here."""
    program = "\n".join([FIRST, *CELLS[1:], LAST])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["drawn"] == [8, 3, 32, 32] and found["completed"] == [7, 3, 32, 32]
    assert found["figures"] == 4
    shares = found["changes"]
    assert len(shares) == 8 and all(0 <= share <= 1 for share in shares) and shares[0] < shares[-1]
