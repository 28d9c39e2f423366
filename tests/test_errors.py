"""digit.errors: options in the caller's words; what two things say of one kind must be the same."""

import pytest

from digit.errors import DigitError, LineageError, check_lineage, first_line, on_command_line, spoken
from digit.progress import say
from digit.training.config import OptimizerConfig
from digit.training.optimizer import warm_up_warning

OURS = {"tokenizer": "a" * 64, "vqgan": "b" * 64}


@pytest.mark.parametrize("theirs", [OURS, {"tokenizer": "a" * 64}, {"classifier": "c" * 64}, {}])
def test_what_only_one_of_them_names_is_no_contradiction(theirs):
    check_lineage("the prior", OURS, "these codes", theirs)
    check_lineage("these codes", theirs, "the prior", OURS)


def test_another_artifact_of_one_kind_is_named_with_both_ids():
    with pytest.raises(LineageError, match=r"the prior belongs to the vqgan b{12}, these codes to c{12}:"):
        check_lineage("the prior", OURS, "these codes", OURS | {"vqgan": "c" * 64})


def test_sentences_name_options_in_the_callers_words():
    sentence = "give --top-k 3, --out FOLDER or --no-mirror; `digit fit --size 3` and /a--b/--c stay"
    assert (
        spoken(sentence)
        == "give top_k 3, out=FOLDER or mirror=False; `digit fit --size 3` and /a--b/--c stay"
    )
    with on_command_line():
        assert spoken(sentence) == sentence == str(DigitError(sentence))
        with on_command_line():
            pass
        assert spoken(sentence) == sentence
    assert str(DigitError("--batch 0")) == "batch 0"


def test_advice_in_records_and_beside_the_work_is_in_the_callers_words(capsys):
    said = warm_up_warning(OptimizerConfig(warmup=9), 3)
    assert said is not None and "a shorter warmup" in said and "--" not in said
    say("the disk is full: choose another --out")
    assert "choose another out" in capsys.readouterr().err


def test_an_error_without_a_word_is_named_by_its_type():
    assert first_line(ValueError("no such thing.\nmore")) == "no such thing"
    assert first_line(MemoryError()) == "MemoryError"
