"""Tables and `saved:` lines stand on standard output, from the main process alone."""

from digit.run import table


def test_cells_are_shown_as_people_read_them(capsys):
    table.print_table("a title", ("one", "two"), {"row": (None, 12345), "other": (0.123456, 2.0)})
    out, err = capsys.readouterr()
    assert not err and "a title" in out
    row, other = (
        next(line for line in out.splitlines() if line.startswith(name)) for name in ("row", "other")
    )
    assert row.split() == ["row", "-", "12,345"] and other.split() == ["other", "0.1235", "2"]


def test_columns_that_do_not_fit_stand_below_one_another():
    columns = [["one", "1"], ["a longer one", "2"], ["three", "3"]]
    assert list(table._parts(columns, None)) == [columns]
    parts = list(table._parts(columns, 16))
    assert [column for part in parts for column in part] == columns and len(parts) == 3


def test_other_processes_are_silent(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    table.print_table("a title", ("one",), {"row": (1,)})
    table.saved("a", "b")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    table.saved("a", "b")
    assert capsys.readouterr().out == "saved: a\nsaved: b\n"
