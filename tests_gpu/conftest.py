"""What only a GPU can show (`make test-gpu`): minutes on one, and a failure where there is none.

A run of all of it, in one process or in several, leaves bench/results/test-gpu.json, whole or not at all:
which commit ran where, with which outcome, and the figures that tests recorded. In a copy without git, COMMIT
in the environment names the commit. What is compiled runs in processes of its own, since the compiler does
not take functions whose types are checked, as they are in this one.
"""

import collections
import datetime
import gc
import math
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
# Processes share the processors too: with all of them each, what a CPU computes for comparison took minutes.
os.environ.setdefault(
    "OMP_NUM_THREADS",
    str(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))),
)

import pytest
import torch
from torch import Tensor

from digit.files import write_json_atomic
from digit.nn.sampling import SamplerConfig

HERE = Path(__file__).parent
RESULT = HERE.parent / "bench" / "results" / "test-gpu.json"
DEVICE = torch.device("cuda", 0)
FIRST = ("test_two_gpus", "test_training", "test_nearest")


def pytest_configure(config: pytest.Config) -> None:
    """Fail before anything is collected where there is nothing to test."""
    if not torch.cuda.is_available():
        raise pytest.UsageError("no GPU is here: run `make test-gpu` on a machine with one (torch sees none)")
    config.pluginmanager.register(Record(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First those that share what takes long to make: the first tests are dealt out seven at a time.

    The others stay in order, since neighbours share models, compiled kernels and captured graphs.
    """
    items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_make_parametrize_id(val: object) -> str | None:
    """A setting of drawing by what it changes."""
    if not isinstance(val, SamplerConfig):
        return None
    plain = asdict(SamplerConfig())
    changes = [f"{name} {value}" for name, value in asdict(val).items() if value != plain[name]]
    return ", ".join(changes) or "plain"


class Record:
    """What came of each test, and the file about it."""

    def __init__(self, config: pytest.Config) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self.plugins = config.pluginmanager
        self.whole = [Path(given).resolve() for given in config.args] == [HERE]
        self.command = shlex.join(["python", "-m", "pytest", *config.invocation_params.args])

    def pytest_deselected(self) -> None:
        """A part of the tests is not all of them."""
        self.whole = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Set-up, call and end of a test, one after another."""
        row = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        row["seconds"] = round(row["seconds"] + report.duration, 3)
        if report.outcome != "passed":
            row |= {"outcome": report.outcome, "reason": reason(report)}
        terminal: Any = self.plugins.get_plugin("terminalreporter")
        if report.failed and terminal is not None:  # at once: a run that is cut short has named it too
            terminal.ensure_newline()
            terminal.write_line(f"FAILED {report.nodeid}: {row['reason']}")
        if figures := dict(report.user_properties):
            row["figures"] = figures

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write it, if every test had its turn."""
        if self.whole and exitstatus in (0, 1) and len(self.tests) == session.testscollected:
            write_json_atomic(RESULT, self.content())

    def content(self) -> dict[str, Any]:
        """Whose figures these are, and the figures."""
        outcomes = collections.Counter(row["outcome"] for row in self.tests.values())
        return {
            "measurement": "tests on a GPU",
            "commit": commit(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": self.command,
            **versions(),
            "counts": dict(outcomes),
            "seconds": round(sum(row["seconds"] for row in self.tests.values()), 1),
            "tests": self.tests,
        }


def reason(report: pytest.TestReport) -> str:
    """The first line of why a test was skipped or failed."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(report.longrepr if crash is None else crash.message).splitlines()[0][:300]


def commit() -> str | None:
    """The commit under test, with a mark if files have changed since."""
    if named := os.environ.get("COMMIT"):
        return named
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None


def versions() -> dict[str, Any]:
    """The device and what computes on it."""
    import triton

    return {
        "device": torch.cuda.get_device_name(DEVICE),
        "devices": torch.cuda.device_count(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
    }


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU."""
    return DEVICE


@pytest.fixture(autouse=True)
def clean():
    """The same random numbers for each test, and the memory of the ones before."""
    torch.manual_seed(0)
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def record(record_property):
    """Note a figure of a test: `record(name, value)`; NaN and infinity as words."""
    return lambda name, value: record_property(name, value if math.isfinite(value) else str(value))


@pytest.fixture
def near(record):
    """Compare with float64, within what the numbers' format allows, and note how much of it was taken.

    `found` may err by rounding to its dtype, and by `ulps` last places of float32 of numbers as large as
    `size`: of what was added up on the way.
    """

    def compare(
        name: str,
        found: Tensor,
        exact: Tensor,
        size: Tensor | None = None,
        *,
        ulps: float = 4,
    ) -> None:
        found, exact = found.detach(), exact.detach()
        size = exact.abs() if size is None else size.detach()
        rounding = torch.finfo(found.dtype).eps / 2
        allowed = rounding * exact.abs() + ulps * torch.finfo(torch.float32).eps * size + 1e-30
        taken = float(((found.double() - exact).abs() / allowed).max())
        record(f"{name}: share of the bound", taken)
        assert taken <= 1, f"{name}: {taken:.2f} times what its number format allows"

    return compare
