"""Names or numbers of classes as labels."""

import pytest

from digit.errors import DigitError
from digit.nn.labels import label_ids


def test_among_many_classes_the_alike_are_shown():
    many = [f"class {i}" for i in range(30)] + ["Tabby"]
    with pytest.raises(DigitError, match="choose Tabby, or a number"):
        label_ids(["tabbi"], names=many, classes=31)
    with pytest.raises(DigitError, match="no classes"):
        label_ids([0], names=(), classes=0)


def test_a_label_is_the_name_of_a_class_before_it_is_a_number(capsys):
    names = sorted(map(str, range(1, 13)))  # as folders are sorted: 1, 10, 11, 12, 2, ...
    assert label_ids(["10", "2", "12"], names=names, classes=12) == [1, 4, 3]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "label 10 is the class called so, number 1" and len(told) == 3
    assert label_ids([10, 2], names=names, classes=12) == [10, 2]  # numbers of Python are numbers
    assert label_ids(["0"], names=names, classes=12) == [0]
    assert "no class is called 0: it is number 0, called 1" in capsys.readouterr().err
    with pytest.raises(DigitError, match="choose 0 to 11, or the name of a class: from 1, 10"):
        label_ids(["13"], names=names, classes=12)
    assert label_ids(["-1", "2"], names=["-1", "7"], classes=3) == [0, 2]
    assert label_ids(["1", "cat"], names=["dog", "cat"], classes=2) == [1, 1]
    capsys.readouterr()
    assert label_ids(["cafe\u0301"], names=["caf\u00e9"], classes=1) == [0] and not capsys.readouterr().err
