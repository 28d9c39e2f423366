"""`digit evaluate probe`: what linear heads read out of every layer of frozen priors (table 2, figure 3b)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from digit.bounds import Batch, Depth, Positive, Seed
from digit.calls import checked
from digit.errors import DigitError, spoken
from digit.printing import put
from digit.run.options import Codes, Device, Folder, Pictures, Tokenizing
from digit.run.table import print_table

PROTOCOL = (
    "a linear head for each layer and learning rate on frozen states averaged over {pool}; layer i = input of"
    " block i, so layer 0 is the embeddings and the last layer is the last block's output, which the"
    " reference never reads (its heads end at the input of the last block); no label is given to the prior;"
    " AdamW, cosine, no weight decay, {epochs:g} epochs over {views} stored view(s) of each picture, features"
    " standardised; learning rate and layer are chosen on {chosen} and scored on {scored}"
)
POOLS = {"all": "the start and all codes, as in the reference", "codes": "the codes alone, without the start"}


@checked
def evaluate_probe(
    prior: tuple[Folder, ...] = (),
    codes: tuple[Codes, ...] = (),
    *,
    held_out: tuple[Codes, ...] = (),
    test: tuple[Codes, ...] = (),
    encoder_of: tuple[Tokenizing, ...] = (),
    images: Pictures | None = None,
    test_images: Pictures | None = None,
    pool: Literal["all", "codes"] = "all",
    views: Depth = 1,
    lr_factors: tuple[Positive, ...] = (0.1, 0.3, 1.0, 3.0, 10.0),
    lr: Positive = 1e-3,
    epochs: Positive = 30.0,
    cache: Folder | None = None,
    memory_gb: Positive = 16.0,
    out: Path | None = None,
    seed: Seed = 0,
    batch: Batch = 256,
    device: Device | None = None,
) -> dict[str, Any]:
    """Linear probes of all layers of frozen priors, in one pass over cached states (figure 3b, table 2).

    Learning rate and layer are chosen on pictures that no head was trained on. With several priors, the plot
    has a line each: by K, by size, by steps. `digit train probe` is the published training instead.

    Example: digit evaluate probe --prior runs/prior --codes runs/codes --held-out runs/codes_val --out probe

    Args:
        prior: artifacts; several are measured one after the other.
        codes: folders of `digit tokenize` with labels to train on: one for all priors, or one each.
        held_out: codes to choose layer and learning rate on, likewise; a tenth of `codes` if left out.
        test: codes to score the choice on, likewise; `held_out` if left out.
        encoder_of: tokenizers, also your own as module:object, whose encoders are probed too: the mean of the
            features they quantise.
        images: pictures in class folders to train an encoder's probe on, but for a tenth, which chooses.
        test_images: pictures to score it on; the tenth that chooses if left out.
        pool: states averaged: all = the start and every code, as the reference; codes = without the start.
        views: stored views of each training picture that are used.
        lr_factors: of heads trained side by side, the best of which counts: multiples of `lr`.
        lr: peak learning rate.
        epochs: over the cached states.
        cache: folder that keeps states in float16, which later calls take up; in memory if left out.
        memory_gb: GB that states may take there.
        out: folder for probe.json and probe.png, or a JSON file; not kept if left out.
        seed: of the split and the order of pictures.
        batch: pictures at once through a frozen network.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    given = dict(locals())
    from digit.run.device import choose_device
    from digit.run.evaluate import measurement, probe_states
    from digit.run.own_code import known
    from digit.run.pictures import open_told

    where = choose_device(device, float64=True)
    if not prior and not encoder_of:
        raise DigitError("nothing to probe: give --prior with --codes, or --encoder-of with --images")
    if encoder_of and images is None:
        raise DigitError("--encoder-of needs --images: pictures in one folder per class")
    names = measurement.unlike_names(prior, "--prior")
    folders = {"--codes": codes, "--held-out": held_out, "--test": test}
    sets = [_each(each, prior, option) for option, each in folders.items()]
    if prior and not codes:
        raise DigitError("--prior needs --codes: folders of `digit tokenize` with labels to train on")
    kinds, encoders = ("tokenizer",), measurement.unlike_names(encoder_of, "--encoder-of")
    opened = [measurement.open_one(path, kinds, where) for path in encoder_of]
    given["encoder_of"] = [known(path, module) for path, module in zip(encoder_of, opened, strict=True)]
    written = measurement.result_file(out, "probe")
    made_of = measurement.asked(out, given)
    if (before := measurement.measured(written, made_of)) is not None:
        return before
    trains: Any = {"learning_rates": lr_factors, "lr": lr, "epochs": epochs, "seed": seed, "device": where}
    how: Any = {"pool": pool, "views": views, "trains": trains}
    how["reads"] = {"cache": cache, "limit": memory_gb * 1e9, "batch": batch, "where": where}
    probed: dict[str, Any] = {}
    for name, path, *each in zip(names, prior, *sets, strict=True):
        probed[name] = probe_states.probe_prior(name, path, each, **how)
    given_pictures = images if encoder_of else None, None, test_images if encoder_of else None
    sources = [None if path is None else open_told(path) for path in given_pictures]
    for name, module in zip(encoders, opened, strict=True):
        probed[f"encoder of {name}"] = probe_states.probe_encoder(name, module, sources, batch, trains)
    protocol = PROTOCOL.format(
        pool=POOLS[pool],
        epochs=epochs,
        views=views,
        chosen="the held-out codes" if held_out else "a part of the training codes",
        scored="the test codes" if test else "the same pictures, which is slightly optimistic",
    )
    value = measurement.record(
        "probe",
        measurement.by_name({name: found.values for name, found in probed.items()}),
        where,
        protocol=protocol,
        counts={f"{name}, {kind}": n for name, found in probed.items() for kind, n in found.counts.items()},
        features=[{"name": name, "id": found.id} for name, found in probed.items()],
        seed=seed,
        settings={
            "pool": pool,
            "views": views,
            "learning_rates": list(lr_factors),
            "lr": lr,
            "read_as": [source.read_as for source in sources if source is not None],
        },
    )
    _print(probed)
    if not test and not test_images:
        line = "chosen and scored on the same pictures, which is slightly optimistic: --test scores on others"
        put(spoken(line))
    plot = partial(_draw, probed, names, f"linear probe by layer, mean over {POOLS[pool]}")
    measurement.keep(written, value, made_of=made_of, plot=plot, also=", and a plot by layer")
    return value


def _each(given: tuple[Path, ...], priors: tuple[Path, ...], option: str) -> Sequence[Path | None]:
    """One folder for each prior: none, one for all, or as many as there are priors."""
    if len(given) not in (0, 1, len(priors)):
        raise DigitError(
            f"{option} names {len(given)} folders for {len(priors)} priors: give one, or one each"
        )
    return given if len(given) == len(priors) else (list(given) or [None]) * len(priors)


def _print(probed: dict[str, Any]) -> None:
    """A row per network, above the paper's table 2."""
    from digit.evaluation.protocols import PROBES

    rows: dict[str, list[Any]] = {}
    for name, found in probed.items():
        best = f"{found.values['best layer']:.0f}", f"{100 * found.values['top-1 best layer']:.1f}"
        rows[name] = [found.tokens, found.codes, found.width, f"{found.parameters / 1e6:.3g}M", *best]
    published = {name: [t, None, w, p, None, f"{share:.1f}"] for name, (t, w, p, share) in PROBES.items()}
    columns = ("tokens", "K", "features", "parameters", "best layer", "top-1, %")
    title = "linear probes of the best layer (the paper's rows: ImageNet, table 2)"
    print_table(title, columns, {**rows, **published}, dim=published)


def _draw(probed: dict[str, Any], priors: Sequence[str], title: str, path: Path) -> None:
    """A line per prior, a level per encoder."""
    from digit.evaluation.plots import draw_layers

    lines, levels = {}, {}
    for name, found in probed.items():
        shares = [share for what, share in found.values.items() if what.startswith("top-1 layer ")]
        if name in priors:
            lines[f"{name} (K={found.codes}, {found.parameters / 1e6:.3g}M)"] = shares
        else:
            levels[name] = shares[0]
    draw_layers(lines, path, levels=levels, title=title)
