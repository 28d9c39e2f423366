"""`digit info` on the command line: a record for machines, a table for people."""

import json

import pytest


@pytest.mark.parametrize("name", ["tokenizer", "vqgan", "prior", "model", "codes"])
def test_info(chain, run, name):
    code, out, _ = run("info", chain.root / name, "--json")
    assert code == 0
    assert json.loads(out)["kind"] == {"model": "pipeline"}.get(name, name)


def test_a_table_for_people(chain, run):
    code, out, _ = run("info", chain.root / "prior")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"prior in {chain.root / 'prior'}"
    told = {line.split("  ")[0]: line.split()[-1] for line in lines if "  " in line}
    assert told["width"] == "16" and told["batch, all processes"] == "8"
