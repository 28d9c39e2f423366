"""What is not there, or is another program's: named in one sentence by each verb, and nothing is written."""

import pytest
from run.test_claim import command, network, snapshot  # noqa: F401 (a fixture)
from tests_support import FIXTURES

from digit.run.arguments import options_of
from digit.run.verbs import VERBS

READ = {"PICTURES", "CODES", "FOLDER", "FILE", "MODEL", "PATH", "NETWORK"}
WRITTEN = {"out", "npz", "cache"}
CASES = [
    (verb, option)
    for verb in VERBS
    for option in options_of(VERBS[verb].function())
    if option.metavar in READ and not set(option.path) & WRITTEN
]
BESIDE = {  # without these the file would not be looked at, which is told
    "train vqgan --perceptual-weights": ["--perceptual", "vgg16"],
    "train renderer --images": ["--flow"],
    "train renderer --tokenizer": ["--wrong-codes", 0.1],
    "train renderer --teacher": ["--flow", "--images", "PICTURES"],
    "train renderer --held-out-images": ["--flow", "--images", "PICTURES", "--held-out", "CODES"],
    "sample --prefix-from": ["--prefix", 4],
    "evaluate probe --encoder-of": ["--images", "PICTURES"],
    "evaluate projection --images": ["--tokenizer", "TOKENIZER"],
    "evaluate projection --tokenizer": ["--images", "PICTURES"],
}


@pytest.mark.parametrize("theirs", [False, True], ids=["lost", "theirs"])
@pytest.mark.parametrize(("verb", "option"), CASES, ids=[f"{verb} {option.name}" for verb, option in CASES])
def test_it_is_named_and_nothing_is_written(chain, run, tmp_path, verb, option, theirs):
    lost = tmp_path / "lost.safetensors"
    if theirs and (verb, option.name) == ("convert official", "--encoder"):
        pytest.skip("it is read beside the checkpoint")
    if theirs:  # what another program wrote
        lost.mkdir()
        (lost / "config.json").write_text('{"model_type": "vit"}')
        (lost / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    out = [] if verb in ("info", "evaluate compare", "demo", "push") else ["--out", tmp_path / "out"]
    line = [*(command(chain, verb) if out else (*verb.split(), __file__, __file__)), *out]
    if verb == "demo":
        line = [verb, chain.root / "model"]
    if verb == "push":
        line = [verb, chain.root / "model", "owner/name"]
    if option.positional:
        line[len(verb.split())] = lost
    else:
        places = {"PICTURES": chain.images, "TOKENIZER": chain.root / "tokenizer"}
        places["CODES"] = chain.root / "codes"
        line += [places.get(word, word) for word in BESIDE.get(f"{verb} {option.name}", [])]
        line += [option.name, f"classifier:{lost}" if option.metavar == "NETWORK" else lost]
    if option.name == "--inception-weights":
        line += ["--features", "inception"]
    if (verb, option.name) == ("convert", "--encoder"):
        line[1] = FIXTURES / "km.npy"
    code, printed, err = run(*line, "--json")
    told = [line for line in err.splitlines() if str(lost) in line]
    assert code == 2 and len(told) == 1 and told[0].startswith("digit: "), err
    assert "Traceback" not in err and not printed
    assert snapshot(tmp_path) == before


def test_gigabytes_are_not_fetched_for_an_encoder_that_is_not_there(run, tmp_path):
    call = ("convert", "official", "base", "--endpoint", "http://127.0.0.1:9", "--out", tmp_path / "out")
    code, _, err = run(*call, "--encoder", tmp_path / "lost.pth")
    assert code == 2 and f"--encoder {tmp_path}/lost.pth does not exist" in err
