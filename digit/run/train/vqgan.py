"""`digit train vqgan`: pictures -> the reconstructive tokenizer, pixels <-> VQ codes."""

from functools import partial
from pathlib import Path
from typing import Any

from digit.bounds import Depth
from digit.calls import checked
from digit.run.dry_run import DryRun
from digit.run.options import Device, File, Folder, Losses, Model, Pictures, Shape, Training
from digit.run.recipes import by_recipe
from digit.training.config import OptimizerConfig, TrainConfig
from digit.vqgan_config import VQGANConfig, VQGANLossConfig

VQGAN_TRAINING = TrainConfig(
    steps=100_000,
    batch=256,
    clip=1.0,
    ema=0.999,
    optimizer=OptimizerConfig(lr=2e-4, betas=(0.5, 0.99), weight_decay=0.0, schedule="cosine", warmup=1000),
)


@checked
@by_recipe("vqgan")
def train_vqgan(
    images: Pictures,
    out: Folder,
    *,
    model: Shape = VQGANConfig(),  # noqa: B008  (frozen)
    losses: Losses = VQGANLossConfig(),  # noqa: B008
    training: Training = VQGAN_TRAINING,
    init_from: Model | None = None,
    perceptual_weights: File | None = None,
    under: str | None = None,
    held_out: Pictures | None = None,
    held_out_under: str | None = None,
    crop: bool = False,
    threads: Depth | None = None,
    device: Device | None = None,
    strict: bool = False,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train the reconstructive tokenizer, pixels <-> VQ codes. The same command resumes an interrupted run.

    Example: digit train vqgan --images photos/ --out runs/vqgan --image-size 256 --perceptual vgg16

    Args:
        images: folder of class folders, flat folder, zip, or tar shards (shards-{000..127}.tar).
        out: the run's folder: artifact, log.jsonl, loss.png, samples/ (reconstructions below), state/.
        model: shape of the encoder and decoder; the official topology unless told otherwise.
        losses: weights of the reconstruction, perceptual and adversarial parts.
        training: steps, batch, learning rate and the rest of the loop.
        init_from: weights to start from, whose shape is the default: a run or model, here, bundled or on the
            hub. Not used where the run goes on.
        perceptual_weights: local safetensors of the perceptual network; else timm fetches the published ones.
        under: only pictures below this folder of `images`, such as `train`.
        held_out: unseen pictures (2,048 of them) for the reconstruction error; `images` if left out.
        held_out_under: only pictures below this folder of `held_out`.
        crop: train on random crops of slightly enlarged pictures, for sets with room around the object.
        threads: that decode pictures.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
        strict: stop at the first picture that is broken or lacks a class, instead of leaving it out.
        plan: what --dry-run estimates.
    """
    given = dict(locals())
    import torch

    from digit.data.identity import of_images
    from digit.evaluation.networks import weights_sha256
    from digit.files import check_writable
    from digit.nn.batch import PixelBatch
    from digit.run import stages
    from digit.run.device import choose_device
    from digit.run.dry_run import dry_run
    from digit.run.pictures import open_told
    from digit.run.start import started
    from digit.vqgan import VQGAN
    from digit.vqgan_loss import VQGANLoss
    from digit.weights.artifact import save
    from digit.weights.storage import to_dict

    where, out = choose_device(device), Path(out)
    check_writable(out)  # before all pictures are read for what they are
    source = open_told(images, under=under, strict=strict)
    unseen = open_told(held_out, under=held_out_under) if held_out else source
    network, size = stages.perceptual(losses, perceptual_weights, plan), model.image_size
    make = lambda: VQGANLoss(VQGAN(model), losses, network)  # noqa: E731  (reads maps of the network)
    stage = stages.build(make, training, plan, sized=lambda: VQGAN(model))
    if start := started(stage.vqgan, out, init_from, classes=(), lineage={}):
        stage.keep_codebook()
    made_of: dict[str, Any] = {"model": to_dict(model), "crop": crop, "losses": to_dict(losses), **start}
    made_of["perceptual"] = {"size": losses.perceptual_size, "maps": losses.perceptual_maps}
    if not plan.dry_run:  # its networks have no weights, and it reads no pictures
        made_of["images"] = of_images(source)
        made_of["held_out"] = of_images(unseen)["content"] if held_out else None
        made_of["perceptual"]["weights"] = None if network is None else weights_sha256(network)
    found = stages.claimed(out, "train vqgan", **made_of)
    if plan.dry_run:
        stage.assume(losses.adversarial_start + losses.adversarial_ramp)  # the discriminators teach
        inputs = {"path": images, "pictures": len(source), "held_out_pictures": len(unseen)}
        inputs |= {"classes": len(source.classes), "read_as": source.read_as}
        batch = PixelBatch(torch.empty(2, 3, size, size, device="meta"), None)
        told: Any = {"model": model, "inputs": inputs, "speed_is_known": False}
        return dry_run(stage, batch, training, out, plan, **told)
    how = {"crop": crop, "threads": threads, "strict": strict}
    data = partial(stages.training_pixels, source, out, size, training, where, **how)
    done = stages.is_finished(out, training)
    pixels = torch.empty(0) if done else stages.held_out_pixels(unseen, size, threads)
    evaluate, picture = stages.reconstruction_error(pixels, where), stages.reconstructions(pixels, where)
    more = {"source": source.fingerprint, "read_as": source.summary, "losses": losses.__dict__}

    def keep(trained: VQGANLoss, to: Path) -> None:
        save(trained.vqgan, to, lineage=start, extra=more)

    record = stages.run_stage(stage, data, training, found, given, where, evaluate, picture, keep, "vqgan")
    return {**record, "inputs": source.counts()}
