"""What was typed and changes nothing is said: a line for each reason, and nothing where all is used."""

import re
import shlex

import pytest

from digit.run.arguments import settings_of
from digit.run.main import understand
from digit.run.unused import RULES, unused
from digit.run.verbs import VERBS

LINES = [
    ("sample --temperature 0 --top-k 5 --top-p 0.9", "--top-k, --top-p are not used: --temperature 0"),
    ("sample --renderer-temperature 0 --renderer-top-k 5", "--renderer-top-k is not used"),
    (
        "sample --guidance 1 --guidance-schedule linear",
        "--guidance-schedule is not used: --guidance 1 is none",
    ),
    ("tokenize --images i --out o --seed 3 --views 2", "--seed is not used: only views beyond the second"),
    ("evaluate prefix m --images i --prefix 3 --temperature 0 --top-k 9", "--top-k is not used"),
    (
        "evaluate images --samples a --reference b --features dinov2-l --inception-weights f",
        "--inception-weights is not used: --features names no inception",
    ),
    ("evaluate images --samples a --reference b --protocol digit-paper --size 64", "--size is not used"),
    ("evaluate probe --encoder-of t --images i --codes c --pool codes", "--codes, --pool are not used"),
    ("evaluate probe --prior p --codes c --test-images i", "--test-images is not used"),
    ("evaluate probe --prior p --codes c --cache c --memory-gb 3", "--memory-gb is not used"),
    (
        "evaluate projection --snrs 3 --shrinkage 0.2",
        "--snrs, --shrinkage are not used: they are of --images",
    ),
    ("train prior --codes c --out o --gpus 8", "--gpus is not used: they are of --dry-run"),
    ("train renderer --codes c --out o --evaluate-every 8", "--evaluate-every is not used"),
    (
        "train renderer --flow --codes c --images i --out o --dropout 0.2 --norm post",
        "--norm, --dropout are not used: a flow renderer has none of it",
    ),
    ("train renderer --codes c --out o --tokenizer t", "--tokenizer is not used: --wrong-codes is 0"),
    ("train renderer --codes c --out o --images i --patch 2", "--images, --patch are not used: they are of"),
    (
        "train renderer --flow --codes c --images i --out o --teacher t --width 64",
        "--width is not used: a student has the settings of its --teacher",
    ),
    (
        "train renderer --flow --codes c --images i --out o --passes 2",
        "--passes is not used: there is no --teacher",
    ),
    (
        "train renderer --flow --codes c --images i --out o --perceptual-weight 1",
        "--perceptual-weight is not used: there is no --tokenizer",
    ),
    ("train probe --prior p --codes c --out o --sample-every 8", "--sample-every is not used"),
    ("train prior --codes c --out o --renderer r", "--renderer is not used: pictures need a --vqgan"),
    ("train prior --codes c --out o --no-conditional --label-dropout 0.1", "--label-dropout is not used"),
    ("train vqgan --images i --out o --perceptual-weight 2", "--perceptual-weight is not used"),
    ("train vqgan --images i --out o --held-out-under x", "--held-out-under is not used"),
    (
        "convert official base --out o --files f --endpoint e",
        "--endpoint is not used: --files fetches nothing",
    ),
]


def lines(line):
    return understand(shlex.split(line)).unused


@pytest.mark.parametrize(("line", "words"), LINES)
def test_what_is_not_used_is_said_once(line, words):
    (said,) = lines(line)
    assert words in said and said.startswith("digit: ")


def lines_of_file(tmp_path):
    """Of settings that only a file has, those that are as usual are not mentioned."""
    found = []
    for verb, text in (
        ("prior", 'kind = "sgd"\nepsilon = "reference"\nschedule = "cosine"\nwarmup = 6250'),
        ("prior", 'kind = "sgd"\nepsilon = "corrected"\nconditional = false\nlabel-dropout = 0.0'),
        ("vqgan", 'codebook = "gradient"\ndead-after = 3'),
        ("vqgan", "adversarial-weight = 0\nadversarial-start = 3\nperceptual-weight = 1.0"),
    ):
        (tmp_path / "s.toml").write_text(text)
        found += lines(
            f"train {verb} --codes c --images i --out o --config {tmp_path}/s.toml".replace(
                "--images i " if verb == "prior" else "--codes c ", ""
            )
        )
    return found


def test_what_a_file_has_and_is_not_used_is_said(tmp_path):
    assert lines_of_file(tmp_path) == [
        "digit: epsilon is not used: kind sgd has none",
        "digit: dead-after is not used: codebook gradient learns as the weights do",
        "digit: adversarial-start is not used: there is no discriminator",
    ]


def test_each_rule_is_tried_and_names_options_that_there_are(tmp_path):
    known = {verb: {".".join(each.path) for each in settings_of(VERBS[verb].function())} for verb in VERBS}
    for rule in RULES:
        verbs = [verb for verb in VERBS if verb.startswith(rule.verb)]
        for path in rule.options.split():
            assert any(path in known[verb] for verb in verbs), rule
        told = [*lines_of_file(tmp_path), *(each for line, _ in LINES for each in lines(line))]
        assert any(rule.why in line for line in told), rule


@pytest.mark.parametrize("verb", VERBS)
def test_what_nobody_typed_is_not_mentioned(verb):
    assert not list(unused(verb, {}, settings_of(VERBS[verb].function())))


def test_settings_of_another_renderer_are_said(chain, run, tmp_path):
    call = ("sample", chain.root / "model", "--num", 1)
    code, _, err = run(*call, "--out", tmp_path / "a", "--passes", 2, "--noise", 1)
    assert (
        code == 0 and "--noise is not used: of the masked renderer, and the autoregressive one draws" in err
    )
    assert "--passes is not used: of the masked or flow renderer, and the autoregressive one draws" in err
    code, _, err = run(*call, "--out", tmp_path / "b", "--renderer-top-k", 2)
    assert code == 0 and not re.search("not used", err)


def test_few_vectors_a_cluster_are_said(chain, run, tmp_path):
    """In the run, in a dry run, and in the record of both."""
    from digit.files import read_json

    call = ("fit", "--images", chain.images, "--clusters", 8, "--per-cluster", 3, "--device", "cpu")
    encoder = ("--encoder", "vit_tiny_patch16_224", "--encoder-size", 16, "--no-mirror", "--block", -1)
    shape = ("--encoder-arguments", "patch_size", 4, "embed_dim", 32, "depth", 2, "num_heads", 2)
    out = ("--out", tmp_path / "t")
    code, _, err = run(*call, *encoder, *shape, *out, "--dry-run", "--json")
    assert code == 0 and "3 feature vectors a cluster, fewer than 39" in err
    assert read_json(chain.root / "tokenizer" / "report.json")["warnings"] == []
