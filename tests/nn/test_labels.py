"""Names or numbers of classes as labels."""

import pytest
import torch
from torch import nn

from digit.errors import DigitError
from digit.nn.labels import label_ids, start_of, taught


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


def test_a_share_of_labels_is_dropped_and_what_is_left_stays():
    torch.manual_seed(0)
    labels = torch.arange(20_000) % 7
    told = taught(labels, classes=7, dropout=0.25)
    assert torch.equal(told[told >= 0], labels[told >= 0])
    assert abs((told < 0).double().mean() - 0.25) < 0.015
    assert taught(labels, classes=7, dropout=0.0) is labels


def test_where_nothing_is_told_nothing_is_drawn():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert taught(torch.zeros(5, dtype=torch.int64), classes=0, dropout=0.5) is None
    assert taught(None, classes=7, dropout=0.5) is None
    assert torch.equal(torch.rand(3), expected)


def test_the_last_row_is_that_of_no_label():
    table = nn.Embedding(4, 2)
    rows = start_of(table, torch.tensor([2, -1, 0]))
    assert torch.equal(rows[:, 0], table.weight[[2, 3, 0]])
    assert torch.equal(start_of(table, None)[0], table.weight[3:])
