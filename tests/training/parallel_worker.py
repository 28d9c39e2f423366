"""What test_parallel.py runs in four processes, forked after the imports: python parallel_worker.py FOLDER.

Each scenario takes the first one, two or four of them, in a group of its own, and leaves results in FOLDER.
"""

import json
import os
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import save_file
from stages import Batch, data, make

from digit.distributed import is_main, rank, share, world_size
from digit.errors import DigitError
from digit.fast import training as fast_training
from digit.nn.batch import CodeBatch, PixelBatch
from digit.prior import Prior, PriorConfig
from digit.training import checkpoint
from digit.training.config import OptimizerConfig, TrainConfig
from digit.training.loop import train
from digit.training.update import Updater
from digit.vqgan import VQGAN
from digit.vqgan_config import VQGANConfig, VQGANLossConfig
from digit.vqgan_loss import VQGANLoss

CPU = torch.device("cpu")
# A large eps: some gradients are zero but for rounding, of which Adam would make whole steps.
ADAM = OptimizerConfig(lr=1e-2, warmup=3, eps=1e-4)
CONFIG = TrainConfig(
    steps=12, batch=8, optimizer=ADAM, clip=0.5, ema=0.9, log_every=3, save_every=3, precision="fp32"
)
SHAPE = PriorConfig(codes=50, length=12, classes=3, width=32, layers=2, heads=2, label_dropout=0.5)
PICTURES = VQGANConfig(image_size=16, width=8, multipliers=(1, 1, 2), blocks=1, codes=16, code_dim=4)
LOSSES = VQGANLossConfig(
    perceptual=None,
    adversarial_start=2,
    discriminator_ahead=1,  # the discriminators have no gradient in the first update
    adversarial_margin=0.5,  # the loss of all processes says how far they teach
    discriminator_slope=0.0,  # whose noise each process draws for itself
    dead_after=1000,
    discriminator_width=8,
)


def codes(step, batch=8):
    """This process's rows of a batch."""
    generator = torch.Generator().manual_seed(step)
    drawn = torch.randint(50, (batch, 12), generator=generator)
    labels = torch.randint(3, (batch,), generator=generator)
    return CodeBatch(drawn[share(batch)], labels[share(batch)])


def prior():
    torch.manual_seed(0)
    return Prior(SHAPE)


class Poisoned(Prior):
    """Its loss is not a number in some updates, in the last process only."""

    calls = 0

    def loss(self, batch):
        self.calls += 1
        bad = self.calls in (2, 4) and rank() == world_size() - 1
        return super().loss(batch) * (float("nan") if bad else 1.0)


@contextmanager
def in_float64():
    """Rounding of float32 would decide on which side of a kink some unit or pixel lies, and in some machines
    another than in others: from then on two runs part."""
    single = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    yield
    torch.Tensor.float = single
    torch.set_default_dtype(torch.float32)


def vqgan():
    torch.manual_seed(0)
    stage = VQGANLoss(VQGAN(PICTURES), LOSSES)
    # As after the start, whose latents are those of the main process.
    stage.started.fill_(True)
    return stage


def pixels(step):
    drawn = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
    return PixelBatch(drawn[share(8)], None)


def updates(name, folder, stage, data=codes, steps=6, compiled=False, fused=False, **changes):
    """A few updates; weights, average and losses are written by the main process."""
    updater = Updater(stage, replace(CONFIG, **changes), CPU)
    if fused:  # as on a GPU
        groups = [{**group, "fused": True} for group in updater.optimizer.param_groups]
        updater.optimizer, updater._clips_itself = torch.optim.AdamW(groups, fused=True), True
    if compiled:
        updater._parallel.compile()
    for step in range(steps):
        updater.update(data(step))
    updater.read_losses("none")
    with updater.measuring() as whole:
        average = {f"average.{key}": value.clone() for key, value in whole.state_dict().items()}
    updater.take_average()
    updater.metrics()
    if is_main():
        save_file(average, folder / f"{name}.safetensors")
        numbers = [*updater.losses, *updater.norms, updater.skipped]
        (folder / f"{name}.json").write_text(json.dumps(numbers))


def refusal(name, folder, stage):
    """What is said to a stage that cannot be sharded."""
    try:
        Updater(stage, replace(CONFIG, sharded=True), CPU)
    except DigitError as error:
        (folder / f"{name}.txt").write_text(str(error))


def one(folder):
    updates("micro4-1", folder, prior(), micro_batch=4)
    updates("micro2-1", folder, prior(), micro_batch=2)
    with in_float64():
        updates("vqgan-1", folder, vqgan(), pixels, optimizer=replace(ADAM, lr=1e-3))


def two(folder):
    updates("micro4-2", folder, prior())
    updates("micro2-2", folder, prior(), micro_batch=2)
    with in_float64():
        updates("vqgan-2", folder, vqgan(), pixels, optimizer=replace(ADAM, lr=1e-3))
    compiler = torch.compile
    torch.compile = partial(compiler, backend="aot_eager")  # quick, and cuts graphs as the real one does
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The .grad attribute of a Tensor"
        )  # the compiler asks for it
        updates("compiled-2", folder, prior(), compiled=True)
        updates("compiled-shards-2", folder, prior(), compiled=True, sharded=True)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        fast_training.hashed = lambda x: torch.compiler.is_compiling()  # as on a GPU
        torch.compile = partial(compiler, backend="eager")
        hashing = prior()
        fast_training.hash_dropout(hashing.transformer, sharded=True)
        updates("compiled-hashed-2", folder, hashing, steps=1, compiled=True, sharded=True)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        (folder / f"graphs-{rank()}.txt").write_text(str(graphs))
    torch.compile = compiler
    torch.manual_seed(0)
    updates("poisoned-2", folder, Poisoned(SHAPE))
    updates("shards-2", folder, prior(), sharded=True)
    updates("shards-micro2-2", folder, prior(), sharded=True, micro_batch=2)
    torch.manual_seed(0)
    updates("shards-poisoned-2", folder, Poisoned(SHAPE), sharded=True)
    torch.manual_seed(0)
    updates("shards-fused-2", folder, Poisoned(SHAPE), sharded=True, fused=True)
    updates("shards-bf16-2", folder, prior(), sharded=True, precision="bf16")
    refusal("no-blocks", folder, vqgan())


def four(folder):
    updates("micro2-4", folder, prior())


def run(folder, steps, name="run", **changes):
    """One run in one folder, taken up by another number of processes."""
    config = replace(CONFIG, steps=steps, micro_batch=2, **changes)

    def evaluate(stage, step):
        assert not stage.training
        yield "score", float(stage.logits(torch.arange(12)[None], torch.tensor([1])).std())

    def on_save(stage, path):
        save_file(stage.state_dict(), folder / name / "artifact.safetensors")

    def picture(stage, step):
        drawn = stage.sample([0, 1], torch.tensor([0, 2]))
        return Image.fromarray(drawn.byte().numpy(), mode="L")

    seen = {"evaluate": evaluate, "on_save": on_save, "picture": picture}
    train(prior(), codes, config, folder / name, device="cpu", progress=False, **seen)


def statistics(folder, steps, name):
    """A stage with batch normalisation."""

    def rows(step):
        return Batch(*(part[share(8)] for part in data(step, 8)[:2]))

    config = replace(CONFIG, steps=steps)
    train(make(), rows, config, folder / name, device="cpu", progress=False)


def full_disk(folder):
    """The last process cannot write its part of the second state."""
    written = checkpoint.write_shards

    def refuses(place, number, count, **pieces):
        if number == count - 1 and "0000006" in place.name:
            raise OSError(28, "No space left on device")
        return written(place, number, count, **pieces)

    checkpoint.write_shards = refuses
    try:
        run(folder, 12, "full", sharded=True)
    except DigitError as error:
        (folder / f"full-{rank()}.txt").write_text(str(error))
    checkpoint.write_shards = written


PHASES = [
    *[(1, one), (2, two), (4, four)],
    *[(1, partial(run, steps=12, name="whole")), (1, partial(run, steps=3)), (2, partial(run, steps=6))],
    *[(4, partial(run, steps=9)), (1, partial(run, steps=12))],
    (2, full_disk),
    (2, partial(statistics, steps=6, name="statistics")),
    *[(2, partial(statistics, steps=steps, name="statistics-resumed")) for steps in (3, 6)],
    *[(1, partial(run, steps=3, name="parts")), (2, partial(run, steps=6, name="parts", sharded=True))],
    *[(4, partial(run, steps=9, name="parts", sharded=True)), (1, partial(run, steps=12, name="parts"))],
]


def work(number, folder):
    """Process `number`'s part of every scenario."""
    for phase, (world, scenario) in enumerate(PHASES):
        if number >= world:
            continue
        if world > 1:
            store = f"file://{folder}/group-{phase}"
            dist.init_process_group("gloo", init_method=store, rank=number, world_size=world)
        scenario(folder)
        if world > 1:
            dist.destroy_process_group()


def main():
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Guards may run slower on Python 3.13.0")  # the compiler's advice
    folder = Path(sys.argv[1])
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(number, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:  # the others would wait for it
            for other in children:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


if __name__ == "__main__":
    main()
