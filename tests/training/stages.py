"""Small stages and data that the training tests share."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from digit.training import log

TIMES = ("samples_per_second", "stall", "save_seconds", "seconds", "eta_seconds", "tflops", "mfu")  # in a log


class Batch(NamedTuple):
    x: Tensor
    y: Tensor
    labels: Tensor | None = None


class Regressor(nn.Module):
    """Two layers with all that a state must carry: dropout, batch norm, a counter, a frozen parameter."""

    def __init__(self, width: int = 8, dropout: float = 0.2) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, 2)
        self.norm, self.dropout = nn.BatchNorm1d(width), nn.Dropout(dropout)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.metrics: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.dropout(torch.relu(self.norm(self.first(x))))) * self.frozen

    def loss(self, batch: Batch) -> Tensor:
        self.calls += 1
        error = (self(batch.x) - batch.y).pow(2).mean()
        self.metrics = {"error": error.detach().sqrt()}
        return error


class Plain(nn.Module):
    """One linear layer, whose gradient over a batch is the mean of those over its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def loss(self, batch: Batch) -> Tensor:
        return (self.layer(batch.x) - batch.y).pow(2).mean()


def data(step: int, batch: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(batch, 4, generator=generator)
    return Batch(x, x[:, :2] * 2 - 1)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def make(seed: int = 0, **arguments: float) -> Regressor:
    torch.manual_seed(seed)
    return Regressor(**arguments)


def records(out: Path) -> list[dict]:
    """The log of a run without times, and without what it says of interruptions."""
    return [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in log.read(out / "log.jsonl")
        if "event" not in record
    ]
