"""Where a run stands, for people and for the next command: status.json in its folder."""

from dataclasses import asdict, dataclass
from pathlib import Path

from digit.errors import DigitError
from digit.files import read_json, write_json_atomic


@dataclass(frozen=True)
class Status:
    """How far a run came, and why it ended there."""

    step: int  # finished updates
    steps: int  # updates in all
    reason: str  # "finished", "running", "interrupted" or "wall-clock limit"
    seconds: float  # training time so far, over all resumptions

    @property
    def finished(self) -> bool:
        """Whether all updates are done and the last artifact is written."""
        return self.reason == "finished" and self.step >= self.steps


def write_status(out: Path, status: Status) -> None:
    """Write status.json into the run's folder."""
    write_json_atomic(out / "status.json", {**asdict(status), "finished": status.finished}, checksum=True)


def read_status(out: str | Path) -> Status | None:
    """The status of the run in `out`, or None where none was written."""
    path = Path(out) / "status.json"
    if not path.exists():
        return None
    value = read_json(path)
    try:
        return Status(int(value["step"]), int(value["steps"]), str(value["reason"]), float(value["seconds"]))
    except (KeyError, TypeError, ValueError):
        raise DigitError(f"{path} is not the status of a training run: delete it and run again") from None
