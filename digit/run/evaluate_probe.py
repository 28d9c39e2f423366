"""`digit evaluate probe`: what linear heads read out of every layer of frozen priors (table 2, figure 3b)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from digit.errors import DigitError
from digit.evaluation.probe import Pool, fit_probe, probe_results, split_rows
from digit.evaluation.probe_plot import CONDITIONS, PAPER, draw_layers
from digit.evaluation.result import result, write_result
from digit.files import make_folder
from digit.nn.linear_probe import RATES
from digit.progress import progress
from digit.run.device import choose_device
from digit.run.probe_states import Split, features_of, states_of
from digit.run.table import print_table
from digit.weights.artifact import artifact_of, load

PROTOCOL = (
    "a linear head for each layer and learning rate on frozen states averaged over {pool}; layer i = input of"
    " block i, so layer 0 is the embeddings and the last layer is the last block's output, which the"
    " reference never reads (its heads end at the input of the last block); no label is given to the prior;"
    " AdamW, cosine, no weight decay, {epochs:g} epochs over {views} stored view(s) of each picture, features"
    " {standard}; learning rate and layer are chosen on {chosen} and scored on {scored}"
)
POOLS = {"all": "the start and all codes, as in the reference", "codes": "the codes alone, without the start"}


def evaluate_probe(
    prior: tuple[Path, ...] = (),
    codes: tuple[Path, ...] = (),
    *,
    held_out: tuple[Path, ...] = (),
    test: tuple[Path, ...] = (),
    encoder_of: tuple[Path, ...] = (),
    images: str | None = None,
    held_out_images: str | None = None,
    test_images: str | None = None,
    pool: Pool = "all",
    views: int = 1,
    learning_rates: tuple[float, ...] = RATES,
    lr: float = 1e-3,
    epochs: float = 30.0,
    standardize: bool = True,
    cache: Path | None = None,
    memory_gb: float = 16.0,
    out: Path | None = None,
    seed: int = 0,
    batch: int = 256,
    device: str | None = None,
) -> dict[str, Any]:
    """Linear probes of all layers of frozen priors, in one pass over cached states (figure 3b, table 2).

    Learning rate and layer are chosen on pictures that no head was trained on. With several priors, the plot
    has a line each: by K, by size, by steps. `digit train probe` is the published training instead.

    Args:
        prior: artifacts; several are measured one after the other.
        codes: folders of `digit tokenize` with labels to train on: one for all priors, or one each.
        held_out: codes to choose layer and learning rate on, likewise; a tenth of `codes` if left out.
        test: codes to score the choice on, likewise; `held_out` if left out.
        encoder_of: tokenizers whose encoders are probed too: the mean of the features they quantise.
        images: pictures in class folders to train an encoder's probe on.
        held_out_images: pictures to choose its learning rate on.
        test_images: pictures to score it on.
        pool: states averaged: all = the start and every code, as the reference; codes = without the start.
        views: stored views of each training picture that are used.
        learning_rates: of heads trained side by side, in units of `lr`.
        lr: peak learning rate.
        epochs: over the cached states.
        standardize: give every channel mean 0 and deviation 1 first, which a linear head could also learn.
        cache: folder that keeps states in float16, which later calls take up; in memory if left out.
        memory_gb: most that states may take there.
        out: a JSON file for the result; the plot by layer goes beside it.
        seed: of the split and the order of pictures.
        batch: pictures at once through a frozen network.
        device: cpu, cuda or cuda:N; a GPU if there is one.
    """
    where = choose_device(device)
    if not prior and not encoder_of:
        raise DigitError("nothing to probe: give --prior with --codes, or --encoder-of with --images")
    if encoder_of and images is None:
        raise DigitError("--encoder-of needs --images: pictures in one folder per class")
    if len({*prior, *encoder_of}) != len(prior) + len(encoder_of):
        raise DigitError("a folder is named twice: give each prior and tokenizer once")
    if out is not None:
        make_folder(out.parent)
    sets = _each(codes, prior, "--codes"), _each(held_out, prior, "--held-out"), _each(test, prior, "--test")
    if prior and not codes:
        raise DigitError("--prior needs --codes: folders of `digit tokenize` with labels to train on")
    reads = {"cache": cache, "limit": memory_gb * 1e9, "batch": batch, "where": where}
    trains: dict[str, Any] = {
        "learning_rates": learning_rates,
        "lr": lr,
        "epochs": epochs,
        "standardize": standardize,
        "seed": seed,
        "device": where,
    }
    values: dict[str, dict[str, float]] = {}
    rows: dict[str, list[str | float | None]] = {}
    counts: dict[str, int] = {}
    used: list[dict[str, str]] = []
    for name, path, *folders in zip(_names(prior), prior, *sets, strict=True):
        network: Any = load(path, kind="prior", device=where)
        splits = states_of(network, path, folders, pool=pool, views=views, reads=reads)
        values[name] = dict(_probe(splits, f"heads of {name}", trains, counts))
        size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        shape = network.config
        side = f"{round(shape.length**0.5)}x{round(shape.length**0.5)}"
        rows[name] = [side, f"K={shape.codes}", str(shape.width), f"{size:.3g}M", *_best(values[name])]
        used.append({"name": name, "id": artifact_of(network)["id"]})
    for name, path in zip(_names(encoder_of), encoder_of, strict=True):
        tokenizer: Any = load(path, kind="tokenizer", device=where)
        assert images is not None
        splits = features_of(tokenizer, (images, held_out_images, test_images), batch, where)
        found = dict(_probe(splits, f"heads of encoder of {name}", trains, counts))
        values[f"encoder of {name}"] = found
        width = tokenizer.encoder.width
        size = sum(parameter.numel() for parameter in tokenizer.encoder.parameters()) / 1e6
        rows[f"encoder of {name}"] = [
            f"{tokenizer.grid}x{tokenizer.grid}",
            None,
            str(width),
            f"{size:.3g}M",
            *_best(found),
        ]
        used.append({"name": f"encoder of {name}", "id": artifact_of(tokenizer)["id"]})
    published = {name: [t, None, str(w), p, None, f"{share:.1f}"] for name, (t, w, p, share) in PAPER.items()}
    columns = ("tokens", "K", "features", "parameters", "best layer", "top-1, %")
    print_table(f"linear probes ({CONDITIONS})", columns, {**rows, **published}, dim=published)
    protocol = PROTOCOL.format(
        pool=POOLS[pool],
        epochs=epochs,
        views=views,
        standard="standardised" if standardize else "as they are",
        chosen="the held-out codes" if held_out else "a part of the training codes",
        scored="the test codes" if test else "the same pictures, which is slightly optimistic",
    )
    value = result(
        "probe",
        [(f"{name}: {what}", number) for name, found in values.items() for what, number in found.items()],
        protocol=protocol,
        counts=counts,
        features=used,
        seed=seed,
        settings={"pool": pool, "views": views, "learning_rates": list(learning_rates), "lr": lr},
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    )
    if out is not None:
        write_result(out, value)
        lines = {
            f"{name} ({', '.join(str(c) for c in rows[name][1:4:2])})": _layers(values[name])
            for name in values
            if name in _names(prior)
        }
        levels = {
            name: found["top-1 layer 0"] for name, found in values.items() if name.startswith("encoder of ")
        }
        draw_layers(
            lines,
            out.with_suffix(".png"),
            levels=levels,
            title=f"linear probe by layer, mean over {POOLS[pool]}",
        )
    return value


def _probe(splits: Sequence[Split], title: str, trains: dict[str, Any], counts: dict[str, int]) -> Any:
    """Train on the first set and yield each layer's results on the last; the middle one chooses."""
    train, chooses, scores = splits
    rows, classes = None, int(train.labels.max()) + 1
    if not len(chooses.labels):
        # By picture: another view of a picture that chooses must not be trained on.
        views = train.views
        trained, kept = split_rows(len(train.labels) // views, seed=trains["seed"])
        rows = (trained[:, None] * views + torch.arange(views)).flatten()
        at = (kept * views).to(train.features.device)
        chooses = Split(train.features[at], train.labels[at.to(train.labels.device)])
    count = len(train.labels) if rows is None else len(rows)
    name = title.removeprefix("heads of ")
    for kind, number in (("training views", count), ("held-out pictures", len(chooses.labels))):
        counts[f"{name}, {kind}"] = number
    if len(scores.labels):
        counts[f"{name}, test pictures"] = len(scores.labels)
    steps = max(1, round(trains["epochs"] * count / min(1024, count)))
    with progress(title, steps) as advance:
        probe = fit_probe(
            train.features, train.labels, classes=classes, rows=rows, progress=advance, **trains
        )
    return probe_results(
        probe, (chooses.features, chooses.labels), scores[:2] if len(scores.labels) else None
    )


def _each(given: tuple[Path, ...], priors: tuple[Path, ...], option: str) -> Sequence[Path | None]:
    """One folder for each prior: none, one for all, or as many as there are priors."""
    if len(given) not in (0, 1, len(priors)):
        raise DigitError(
            f"{option} names {len(given)} folders for {len(priors)} priors: give one, or one each"
        )
    return given if len(given) == len(priors) else (list(given) or [None]) * len(priors)


def _names(paths: tuple[Path, ...]) -> list[str]:
    """The folders' names, or whole paths where two are alike."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _best(values: dict[str, float]) -> list[str | float | None]:
    return [f"{values['best layer']:.0f}", f"{100 * values['top-1 best layer']:.1f}"]


def _layers(values: dict[str, float]) -> list[float]:
    return [share for name, share in values.items() if name.startswith("top-1 layer ")]
