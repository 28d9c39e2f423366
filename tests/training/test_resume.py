"""A training of pictures in one piece and in up to four, by any number of threads: one run, bit for bit."""

import os
import signal

import pytest
import torch
from tests_support import make_pictures
from torch import nn

from digit.data.images import open_images
from digit.data.pixels import PixelData
from digit.training import log
from digit.training.config import OptimizerConfig
from digit.training.loop import TrainConfig, train

from .stages import records, same

# 48 pictures: the second epoch begins within update 5, the third within update 10
CONFIG = TrainConfig(
    steps=13,
    batch=10,
    micro_batch=4,
    optimizer=OptimizerConfig(lr=1e-2, warmup=4),
    ema=0.9,
    log_every=4,
    save_every=5,
    evaluate_every=6,
)


class Colours(nn.Module):
    """Tells mirrored pictures from others, after dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()
        )
        self.head = nn.LazyLinear(3)
        self.head(self.layers(torch.zeros(2, 3, 16, 16)))

    def loss(self, batch):
        return nn.functional.cross_entropy(self.head(self.layers(batch.pixels)), batch.labels % 3)


def run(pictures, out, *, threads, stops=()):
    stops = list(stops)
    torch.manual_seed(0)

    def evaluate(stage, step):
        yield "score", float(stage.head.weight.sum())

    def begin():
        source = open_images(pictures)
        pixels = PixelData(source, size=16, batch_size=10, crop=True, memory_limit_bytes=0, threads=threads)

        def data(step):
            if step in stops:
                stops.remove(step)
                os.kill(os.getpid(), signal.SIGTERM)
            return pixels(step)

        torch.manual_seed(0)
        stage = Colours()
        return train(stage, data, CONFIG, out, evaluate=evaluate, device="cpu", progress=False)

    for _ in tuple(stops):
        with pytest.raises(KeyboardInterrupt):
            begin()
    return begin()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures") / "pictures.zip")


@pytest.fixture(autouse=True, scope="module")
def no_drawing():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "draw", lambda records, path: None)
        yield


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return run(pictures, out, threads=1), out


@pytest.mark.parametrize(("threads", "stops"), [(1, (3,)), (4, (4, 5)), (4, (2, 9, 12)), (None, ())], ids=str)
def test_the_same_bits_and_the_same_log(pictures, tmp_path, whole, threads, stops):
    stage, out = whole
    assert same(stage, run(pictures, tmp_path, threads=threads, stops=stops))
    assert records(tmp_path) == records(out)
    for name in ("model.safetensors", "optimizer.safetensors"):
        last = f"state/step-0000013/{name}"
        assert (tmp_path / last).read_bytes() == (out / last).read_bytes()
