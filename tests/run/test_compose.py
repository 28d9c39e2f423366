"""`digit compose`: stages of one lineage become a model, others are refused."""

import json


def test_a_prior_refuses_codes_of_another_tokenizer(chain, run, tmp_path):
    from digit.run.fit import fit

    fit(chain.images, tmp_path / "other", **chain.fitted, iterations=1, seed=5, device="cpu")
    other, vqgan = ("--tokenizer", tmp_path / "other"), ("--vqgan", chain.root / "vqgan")
    code, _, err = run("tokenize", "--images", chain.images, "--out", chain.root / "codes", *other, *vqgan)
    assert code == 2
    assert "made with another tokenizer or VQGAN" in err
    stages = ("--prior", chain.root / "prior", *vqgan, "--renderer", chain.root / "renderer", *other)
    code, _, err = run("compose", *stages, "--out", tmp_path / "m")
    assert code == 2
    assert "belongs to the tokenizer" in err
    assert not (tmp_path / "m").exists()


def test_a_model_is_named_by_its_parts_and_draws_as_the_file_says(chain, run, tmp_path):
    (tmp_path / "sampling.json").write_text(json.dumps({"prior": {"temperature": 0.5, "top_k": 3}}))
    stages = ("--prior", chain.root / "prior", "--vqgan", chain.root / "vqgan")
    stages += ("--renderer", chain.root / "renderer", "--sampling", tmp_path / "sampling.json")
    code, out, err = run("compose", *stages, "--out", tmp_path / "m")
    assert code == 0, err
    lines = out.splitlines()
    assert f"digit sample {tmp_path / 'm'}" in lines[0]
    assert {line.split()[0] for line in lines[3:] if line} >= {"prior", "vqgan", "renderer"}
    assert f"saved: {tmp_path / 'm'}" in lines
    code, out, _ = run("info", tmp_path / "m", "--json")
    assert json.loads(out)["sampling"]["prior"]["top_k"] == 3
