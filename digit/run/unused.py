"""Settings that were given and change nothing, as others say otherwise: a line for each reason."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from digit.run.arguments import Option

Values = Callable[[str], Any]  # what an option has, typed or not


class Rule(NamedTuple):
    """Options of a verb, or of all that begin so, that are not used where something holds."""

    verb: str
    options: str  # by their paths
    holds: Callable[[Values], bool]
    why: str


def _greedy(get: Values) -> bool:
    return get("temperature") == 0


def _no_discriminator(get: Values) -> bool:
    patches, maps = get("losses.discriminate_patches"), get("losses.discriminate_maps")
    return get("losses.adversarial_weight") == 0 or not (patches or maps)


def _without(*options: str) -> Callable[[Values], bool]:
    return lambda get: not any(get(option) for option in options)


RULES = (
    Rule("sample", "top_k top_p", _greedy, "--temperature 0 takes the likeliest code"),
    Rule("evaluate prefix", "top_k top_p", _greedy, "--temperature 0 takes the likeliest code"),
    Rule(
        "sample",
        "renderer_top_k renderer_top_p",
        lambda get: get("renderer_temperature") == 0,
        "--renderer-temperature 0 takes the likeliest code",
    ),
    Rule("sample", "guidance_schedule", lambda get: get("guidance") == 1, "--guidance 1 is none"),
    Rule(
        "tokenize", "seed", lambda get: get("views") < 3, "only views beyond the second are random (--views)"
    ),
    Rule(
        "evaluate",
        "inception_weights",
        lambda get: "inception" not in get("features"),
        "--features names no inception",
    ),
    Rule(
        "evaluate images",
        "size",
        lambda get: get("protocol") == "digit-paper",
        "--protocol digit-paper has its own",
    ),
    Rule(
        "evaluate probe",
        "codes held_out test pool views cache memory_gb",
        _without("prior"),
        "they are of a --prior",
    ),
    Rule("evaluate probe", "images test_images", _without("encoder_of"), "they are of an --encoder-of"),
    Rule("evaluate probe", "memory_gb", lambda get: bool(get("cache")), "states are in --cache"),
    Rule(
        "evaluate projection",
        "under classes per_class snrs shrinkage size batch",
        _without("images"),
        "they are of --images",
    ),
    Rule(
        "train", "plan.gpu plan.gpus plan.price_per_hour", _without("plan.dry_run"), "they are of --dry-run"
    ),
    Rule(
        "train",
        "training.evaluate_every",
        lambda get: get("held_out") is None,
        "there is no --held-out",
    ),
    Rule("train probe", "training.sample_every", lambda get: True, "a probe draws nothing"),
    Rule(
        "train",
        "training.optimizer.epsilon",
        lambda get: get("training.optimizer.kind") == "sgd",
        "kind sgd has none",
    ),
    Rule(
        "train renderer",
        "norm dropout label_smoothing vqgan",
        lambda get: get("flow"),
        "a flow renderer has none of it",
    ),
    Rule(
        "train renderer",
        "tokenizer",
        lambda get: not get("wrong_codes") and not get("flow"),
        "--wrong-codes is 0",
    ),
    Rule("train renderer", "images held_out_images patch teacher", _without("flow"), "they are of --flow"),
    Rule("train renderer", "perceptual_weight", _without("tokenizer"), "there is no --tokenizer"),
    Rule("train renderer", "passes taught_guidance", _without("teacher"), "there is no --teacher"),
    Rule(
        "train renderer",
        "width layers heads patch label_dropout wrong_codes",
        lambda get: get("teacher") is not None,
        "a student has the settings of its --teacher",
    ),
    Rule("train prior", "renderer", _without("vqgan"), "pictures need a --vqgan too"),
    Rule(
        "train prior",
        "label_dropout",
        lambda get: not get("conditional"),
        "--no-conditional trains without labels",
    ),
    Rule(
        "train vqgan",
        "losses.perceptual_size losses.perceptual_weight losses.discriminate_maps perceptual_weights",
        _without("losses.perceptual"),
        "there is no --perceptual network",
    ),
    Rule("train vqgan", "held_out_under", _without("held_out"), "there is no --held-out"),
    Rule(
        "train vqgan",
        "losses.codebook_decay losses.dead_after",
        lambda get: get("model.codebook") == "gradient",
        "codebook gradient learns as the weights do",
    ),
    Rule(
        "train vqgan",
        "losses.adversarial_start losses.adversarial_ramp losses.discriminator_width "
        "losses.discriminator_slope losses.discriminator_ahead",
        _no_discriminator,
        "there is no discriminator",
    ),
    Rule(
        "convert official", "cache endpoint", lambda get: get("files") is not None, "--files fetches nothing"
    ),
)


def unused(verb: str, given: Mapping[str, Any], settings: Sequence[Option]) -> Iterator[str]:
    """A sentence for each reason: `given` was typed, or a file of settings has it other than usual."""
    known = {".".join(setting.path): setting for setting in settings}
    values = {path: setting.default for path, setting in known.items()} | {**given}
    for rule in RULES:
        if not verb.startswith(rule.verb):
            continue
        named = [path for path in rule.options.split() if given.get(path) is not None]
        if named and rule.holds(values.get):
            yield not_used(named, rule.why, alone={path for path in named if known[path].in_file})


def not_used(paths: Sequence[str], why: str, *, alone: Collection[str] = ()) -> str:
    """The sentence for options by their paths, and for those that a file of settings has `alone`."""
    names = ", ".join(
        "--" * (path not in alone) + path.rpartition(".")[2].replace("_", "-") for path in paths
    )
    return f"digit: {names} {'is' if len(paths) == 1 else 'are'} not used: {why}"
