"""digit.errors: what two things say of one kind must be the same, and only that."""

import pytest

from digit.errors import LineageError, check_lineage

OURS = {"tokenizer": "a" * 64, "vqgan": "b" * 64}


@pytest.mark.parametrize("theirs", [OURS, {"tokenizer": "a" * 64}, {"classifier": "c" * 64}, {}])
def test_what_only_one_of_them_names_is_no_contradiction(theirs):
    check_lineage("the prior", OURS, "these codes", theirs)
    check_lineage("these codes", theirs, "the prior", OURS)


def test_another_artifact_of_one_kind_is_named_with_both_ids():
    with pytest.raises(LineageError, match=r"the prior belongs to the vqgan b{12}, these codes to c{12}:"):
        check_lineage("the prior", OURS, "these codes", OURS | {"vqgan": "c" * 64})
