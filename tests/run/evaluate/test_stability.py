"""`digit evaluate stability` and what bad input gets."""

import pytest

from digit.evaluation.result import read_result


def test_two_tokenizers_side_by_side(chain, run, json_of, saved_in, tmp_path):
    both = ("--tokenizers", chain.root / "tokenizer", chain.root / "vqgan")
    options = ("--images", chain.images, *both, "--num", "12", "--device", "cpu")
    code, out, err = run("evaluate", "stability", *options, "--out", tmp_path / "s", "--json")
    assert code == 0
    value = read_result(tmp_path / "s" / "stability.json")
    assert json_of(out)["values"] == value["values"]
    assert value["counts"] == {"pictures": 12}
    assert value["settings"]["size"] == 16
    for name in ("tokenizer", "vqgan"):
        changes = [value["values"][f"{name}: token change, noise {snr} dB"] for snr in ("30", "10", "0.01")]
        assert 0 <= changes[0] <= changes[2] <= 1
        assert changes[2] > 0
    assert "vqgan: PSNR" in value["values"]
    assert "tokenizer: PSNR" not in value["values"]
    assert saved_in(err) == ["stability.json", "stability.png"]
    assert "token change by SNR in dB (lower is better), 12 pictures of pictures.zip at 16 px" in err
    assert "paper, discriminative" in err
    assert ".721" in err
    assert (tmp_path / "s" / "stability.png").stat().st_size > 10_000


def test_noise_is_the_same_alone_and_in_other_batches(chain, run, json_of, tmp_path):
    options = ("--images", chain.images, "--num", "6", "--device", "cpu", "--noise-only", "--size", "16")
    both = ("--tokenizers", chain.root / "tokenizer", chain.root / "vqgan", "--batch", "4", "--json")
    alone = ("--tokenizers", chain.root / "vqgan", "--batch", "3", "--json", "--out", tmp_path / "x.json")
    one, two = (json_of(run("evaluate", "stability", *options, *more)[1])["values"] for more in (both, alone))
    assert two
    assert all(abs(one[name] - number) < 1e-6 for name, number in two.items())
    assert (tmp_path / "x.png").exists()


def test_bad_input_gets_one_sentence(chain, run):
    options = ("--images", chain.images, "--device", "cpu")
    for tokenizers, more, sentence in (
        ([chain.root / "prior"], (), "is a prior, this takes tokenizer or vqgan"),
        ([chain.root / "vqgan"], ("--size", "32"), "made for 16 px"),
        ([chain.root / "vqgan"] * 2, (), "names a folder twice"),
    ):
        code, _, err = run("evaluate", "stability", *options, "--tokenizers", *tokenizers, *more)
        assert code == 2
        assert sentence in err


def test_a_flow_renderer_shows_what_a_tokenizer_keeps(chain, flow, run, json_of):
    both = ("--tokenizers", chain.root / "tokenizer", chain.root / "vqgan")
    options = ("--images", chain.images, *both, "--num", "5", "--device", "cpu", "--noise-only", "--json")
    plain = json_of(run("evaluate", "stability", *options)[1])["values"]
    more = ("--renderer-flow", flow.root / "renderer")
    for batch in (5, 2):
        code, out, err = run("evaluate", "stability", *options, *more, "--batch", batch)
        assert code == 0, err
        value = json_of(out)
        drawn = {name: value["values"].pop(f"tokenizer: {name}") for name in ("PSNR", "sharpness")}
        assert value["values"] == pytest.approx(plain, abs=1e-6) and drawn["PSNR"] > 0
        assert [each["name"] for each in value["features"]] == ["tokenizer", "vqgan", "flow renderer"]
        if batch == 5:
            whole = drawn
    assert all(abs(drawn[name] - number) < 1e-4 for name, number in whole.items())
    alone = (*options[:2], "--tokenizers", chain.root / "vqgan", *options[5:], *more)
    code, _, err = run("evaluate", "stability", *alone)
    assert code == 2 and "which is not among --tokenizers: give it too" in err
    code, _, err = run("evaluate", "stability", *options, *more, "--size", 32)
    assert code == 2 and "is made for 16 px, the pictures have 32" in err
