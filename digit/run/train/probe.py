"""`digit train probe`: a frozen prior and labelled codes -> linear heads, one for each layer."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Positive, Weight
from digit.calls import checked
from digit.run.dry_run import DryRun
from digit.run.options import Codes, Device, FileOnly, Folder, Training
from digit.run.recipes import PROBE, by_recipe


@checked
@by_recipe("probe")
def train_probe(
    prior: Folder,
    codes: Codes,
    out: Folder,
    *,
    recipe: Literal["linear_probe"] | None = None,
    held_out: Codes | None = None,
    last_block: bool = True,
    lr_factors: tuple[Positive, ...] = (1.0,),
    start: FileOnly[Weight] = 0.01,
    training: Training = PROBE,
    device: Device | None = None,
    plan: DryRun = DryRun(),  # noqa: B008
) -> dict[str, Any]:
    """Train linear heads on a frozen prior's states, one for each layer (DiGIT, section 4.2, figure 3b).

    Each head reads the mean over the start and all codes of what one block reads, without any norm; the prior
    is given no label. The same command resumes an interrupted run.

    Example: digit train probe --prior runs/prior --codes runs/codes --held-out runs/val --out runs/probe

    Args:
        prior: artifact of the prior, which stays as it is.
        codes: folder of `digit tokenize` with labels, made by the tokenizer of the prior.
        out: the run's folder: artifact of kind probe, log.jsonl, loss.png, state/.
        recipe: a published run, whose settings then are the defaults (`digit train --help` lists them all).
        held_out: codes of the validation pictures, for the top-1 of each layer.
        last_block: read the last block's output too, which the reference never does.
        lr_factors: a head for each, with this multiple of the learning rate; the best is reported.
        start: standard deviation of the heads' weights before training.
        training: steps, batch, learning rate and the rest of the loop.
        device: cpu, cuda, cuda:N or mps; an NVIDIA GPU if there is one.
        plan: what --dry-run estimates.
    """
    given = dict(locals())
    from digit.data.codes import open_codes
    from digit.data.identity import of_codes, of_folder
    from digit.nn.linear_probe import Probe, ProbeConfig
    from digit.run import stages
    from digit.run.class_names import check_classes
    from digit.run.device import choose_device
    from digit.run.dry_run import code_batch, describe_codes, dry_run
    from digit.run.train.frozen import FrozenStates, top_1
    from digit.weights.artifact import save
    from digit.weights.storage import to_dict

    where, opened = choose_device(device), open_codes(codes)
    states = FrozenStates(prior, last_block, training, where)
    states.check(opened)
    shape = ProbeConfig(
        states.width, len(opened.classes), layers=states.layers, learning_rates=lr_factors, start=start
    )
    stage = stages.build(lambda: Probe(shape), training, plan)
    evaluate = top_1(held_out, opened, states)
    check_classes(out, "probe", opened.classes)
    made_of: dict[str, Any] = {"prior": states.identity, "model": to_dict(shape)}
    made_of |= {"codes": of_codes(opened, states.over, labels=True), "held_out": of_folder(held_out)}
    found = stages.claimed(out, "train probe", **made_of)
    if plan.dry_run:
        inputs = describe_codes(opened) | {"prior": prior}
        batch, whole = code_batch(states.prior.config.length), states.with_probe(stage)
        return dry_run(stage, batch, training, out, plan, model=shape, inputs=inputs, counted_as=whole)
    data = partial(states.data, opened, training)

    def keep(trained: Probe, to: Path) -> None:
        save(trained, to, lineage={"prior": states.identity}, classes=opened.classes)

    return stages.run_stage(stage, data, training, found, given, where, evaluate, None, keep, "linear probe")
