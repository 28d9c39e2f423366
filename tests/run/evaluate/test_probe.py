import inspect

from PIL import Image

from digit.evaluation.result import read_result
from digit.nn.linear_probe import RATES
from digit.run.evaluate.probe import evaluate_probe


def few(chain):
    return ("--epochs", "4", "--lr-factors", "1", "10", "--device", "cpu")


def test_every_layer_of_several_priors_and_an_encoder(chain, run, json_of, saved_in, tmp_path):
    root, out = chain.root, tmp_path / "probe.json"
    code, printed, spoken = run(
        *("evaluate", "probe", "--prior", root / "prior", root / "prior_vq", "--codes", root / "codes"),
        *("--encoder-of", root / "tokenizer", "--images", chain.images, "--out", out, *few(chain), "--json"),
    )
    assert code == 0, spoken
    values = json_of(printed)["values"]
    for name in ("prior", "prior_vq"):
        assert {f"{name}: top-1 layer {layer}" for layer in (0, 1)} <= set(values)  # one block: input, output
        assert f"{name}: top-1 layer 2" not in values
        assert 0 <= values[f"{name}: top-1 best layer"] <= 1
    assert "encoder of tokenizer: top-1 layer 0" in values
    result = read_result(out)
    assert result["measurement"] == "probe"
    assert "layer i = input of block i" in result["protocol"]
    assert "a part of the training codes" in result["protocol"]
    assert result["counts"]["prior, training views"] == 43
    assert result["counts"]["prior, held-out pictures"] == 5
    with Image.open(tmp_path / "probe.png") as image:
        assert image.size[0] > 400
    assert saved_in(spoken) == ["probe.json", "probe.png"]
    assert "which is slightly optimistic" in spoken
    assert "paper, DiGIT" in spoken
    assert "71.7" in spoken
    (read_as,) = result["settings"]["read_as"]
    assert spoken.splitlines().count(read_as) == 1 and "48 pictures of 3 classes" in read_as


def test_a_result_of_other_settings_is_not_taken_for_this_one(chain, run, tmp_path):
    """Whatever decides the heads: another prior, pool, factor, or pictures of the encoder's probe."""
    root, out = chain.root, tmp_path / "probe.json"
    command = ("evaluate", "probe", "--codes", root / "codes", "--out", out, *few(chain))
    assert run(*command, "--prior", root / "prior")[0] == 0
    before = out.read_bytes()
    code, _, spoken = run(*command, "--prior", root / "prior")
    assert code == 0 and "nothing is left to do" in spoken
    for other in (
        ("--prior", root / "prior_vq"),
        ("--prior", root / "prior", "--pool", "codes"),
        ("--prior", root / "prior", "--lr", "0.01"),
        ("--prior", root / "prior", "--encoder-of", root / "tokenizer", "--images", chain.images),
    ):
        code, _, spoken = run(*command, *other)
        assert code == 2 and "already holds a result of other models" in spoken, other
    assert out.read_bytes() == before


def test_the_factors_left_out_are_those_of_the_probe():
    assert inspect.signature(evaluate_probe).parameters["lr_factors"].default == RATES


def test_views_of_a_picture_that_chooses_are_not_trained_on(chain, run, json_of):
    root = chain.root
    command = ("evaluate", "probe", "--prior", root / "prior", "--codes", root / "codes", "--views", "2")
    counts = json_of(run(*command, *few(chain), "--json")[1])["counts"]
    assert counts == {"prior, training views": 86, "prior, held-out pictures": 5}


def test_a_cache_is_taken_up_and_changes_nothing(chain, run, json_of, tmp_path):
    root = chain.root
    command = ("evaluate", "probe", "--prior", root / "prior", "--codes", root / "codes", "--held-out")
    command = (*command, root / "codes", "--test", root / "codes", *few(chain), "--json")
    _, plain, _ = run(*command)
    _, first, _ = run(*command, "--cache", tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    _, again, _ = run(*command, "--cache", tmp_path)
    assert files
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")} == files
    assert json_of(plain)["values"] == json_of(first)["values"] == json_of(again)["values"]
    assert "scored on the test codes" in json_of(plain)["protocol"]
    _, other, _ = run(*command, "--cache", tmp_path, "--pool", "codes")
    assert len(list(tmp_path.glob("*.npy"))) > len(files)
    assert json_of(other)["settings"]["pool"] == "codes"


def test_bad_input_gets_one_sentence(chain, run):
    root = chain.root
    prior, codes = ("--prior", root / "prior"), ("--codes", root / "codes")
    for arguments, said in (
        ((), "nothing to probe"),
        (prior, "--prior needs --codes"),
        ((*prior, root / "prior", *codes), "names a folder twice"),
        ((*prior, "--codes", root / "codes", root / "codes"), "give one, or one each"),
        ((*prior, *codes, "--views", "3"), "--views 3"),
        ((*prior, *codes, "--memory-gb", "1e-9"), "--cache FOLDER"),
        (("--encoder-of", root / "tokenizer"), "needs --images"),
    ):
        code, _, spoken = run("evaluate", "probe", *arguments, "--device", "cpu")
        assert code == 2, spoken
        assert said in spoken
        assert len([line for line in spoken.splitlines() if line.startswith("digit: ")]) == 1
