"""What files say reaches nobody raw: no terminal, no markup, no plot; and nobody prints elsewhere."""

import ast
import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from digit.errors import DigitError, LineageError
from digit.figure import new_figure, save_figure
from digit.files import write_json_atomic
from digit.printing import LISTED, NAME, SENTENCE, listed, put, put_json, put_page, readable
from digit.progress import Bar, say
from digit.run.grid import grid
from digit.run.table import CELL, ROWS, print_table
from digit.weights.artifact import CONFIG

ROOT = Path(__file__).parents[1] / "digit"
OBEYED = ["\x1b[2J\x1b]0;owned\x07", "a\rb", "line\nsaved: /etc/passwd", "\x9b31m", "\u202egnp.exe", "\udcff"]
OBEYED += ["\ud83d", "\x00", "\x7f", "\u2028", "\u2066"]
MARKUP = ["[/red]", "[bold]x[/bold]", "[link=file:///etc/passwd]x[/link]", ":warning:", "[", "\\[x]"]


def is_harmless(text: str) -> bool:
    return text.isprintable() and text.encode() is not None


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_obeys_is_shown_as_escapes(text, capsys):
    assert is_harmless(readable(text)) and readable(readable(text)) == readable(text) != text
    for told in (
        lambda: put(text),
        lambda: say(text),
        lambda: put(text, error=True),
        lambda: Bar(text, 1)._speak(),
    ):
        told()
        captured = capsys.readouterr()
        (line,) = (captured.out + captured.err).split("\n")[:-1]
        assert is_harmless(line)
    assert is_harmless(str(DigitError(f"{text} is no picture")))
    assert is_harmless(str(LineageError(text)))
    put_json({text: text}, str)
    printed = capsys.readouterr().out
    assert printed.isascii() and json.loads(printed) == {text: text}


def test_what_people_write_stays_as_it_is(capsys):
    for text in ("Ångström été 犬 👩‍🚀 نص עברית", "a[b] $x_1$ {c} \\d", ""):
        assert readable(text) == text == str(DigitError(text))
    put_page("one\n\n  two\x1b")
    assert capsys.readouterr().out == "one\n\n  two\\x1b\n"


@pytest.mark.parametrize("text", ["x" * 10**8, "\x1b" * 10**7])
def test_a_sentence_is_a_sentence_however_long_a_name_is(text):
    begun = time.monotonic()
    told = str(DigitError(f"settings.json: unknown setting {text}: take it out"))
    assert len(told) <= SENTENCE and told.startswith("settings.json: unknown setting ")
    assert told.endswith(": take it out") and time.monotonic() - begun < 2


@pytest.mark.parametrize("most", [40, 41, 97, SENTENCE])
def test_shortened_texts_have_just_the_length(most):
    for text in ("é" * most, "é" * (most + 1), "\x1b" * most, "a" * 3 * most):
        assert len(readable(text, most)) <= most
    assert readable("é" * most, most) == "é" * most
    assert len(readable("é" * (most + 1), most)) == most


def test_of_many_names_the_first_stand_there_and_how_many_more_there_are():
    assert listed([]) == "" and listed(["a", 2]) == "a, 2"
    assert listed([str(i) for i in range(LISTED)]) == "0, 1, 2, 3, 4, 5, 6, 7"
    names = {f"\x1b{i:05d}": None for i in range(4239)}
    assert listed(names, 2) == "\\x1b00000, \\x1b00001 and 4,237 more"
    assert len(listed(["x" * 10**7] * 10**5)) < (NAME + 2) * LISTED + 20


@pytest.mark.parametrize("text", [*OBEYED, *MARKUP])
def test_a_table_shows_names_and_values_as_they_are(text, capsys):
    print_table(text, [text, "b"], {text: [text, 1], "other": [None, 2.5]})
    printed = capsys.readouterr().out
    assert all(map(is_harmless, printed.split("\n")))
    assert printed.count(readable(text)) == 4, printed


def test_a_table_is_no_longer_than_people_read(capsys):
    print_table("many", ["value"], {"x" * 10**6 + str(i): ["y" * 10**6] for i in range(3)})
    assert len(capsys.readouterr().out) < 12 * CELL
    print_table("many", ["value"], {str(i): [i] for i in range(ROWS + 7)})
    assert "and 7 more rows" in capsys.readouterr().out


@pytest.mark.parametrize("text", [*OBEYED, *MARKUP])
def test_a_bar_on_a_terminal_says_lines_as_they_are(text):
    with Bar("train", 3) as bar:
        file = io.StringIO()
        screen = Console(file=file, force_terminal=True, color_system=None, width=200)
        bar._bar = type("Shown", (), {"console": screen, "stop": lambda self: None})()
        bar.say(f"<{text}>")
    assert file.getvalue() == f"<{readable(text)}>\n"


@pytest.mark.parametrize("text", [*OBEYED, *MARKUP, r"$\frac{$", "$x$", "a$b", "x" * 10**6, "\n" * 10**4])
def test_words_in_a_plot_are_no_mathematics(text, tmp_path):
    figure = new_figure(15, 8)
    panel = figure.subplots()
    panel.plot([1, 2], label=text)
    panel.set(title=text, xlabel=text)
    panel.annotate(text, (0, 1))
    panel.legend()
    figure.suptitle(text)
    save_figure(figure, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    said = [panel.get_title(), panel.get_xlabel(), panel.get_legend().get_texts()[0].get_text()]
    assert all(line.isprintable() and len(line) < 1000 for words in said for line in words.split("\n"))


@pytest.mark.parametrize("text", [*OBEYED, "x" * 10**6])
def test_titles_of_a_grid_are_short_and_of_whole_characters(text):
    import torch

    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert grid(pixels, above=[text, "b"], beside=[text]).width < 3000


@pytest.mark.parametrize("name", OBEYED)
def test_a_refusal_out_of_a_file_is_one_harmless_line(name, chain, tmp_path, run):
    """Wherever the name stands: a setting, a kind, a JSON file's keys, a path."""
    whole = json.loads((chain.root / "prior" / CONFIG).read_text())
    whole.pop("checksum")
    folder = tmp_path / "prior"
    folder.mkdir()
    for changed in ({"config": {**whole["config"], name: 1}}, {"kind": name}, {"classes": [name, 7]}):
        write_json_atomic(folder / CONFIG, whole | changed, checksum=True)
        code, out, error = run("evaluate", "probe", "--prior", folder, "--codes", chain.root / "codes")
        assert code == 2 and out == ""
        assert error.endswith("\n") and error.count("\n") == 1 and is_harmless(error[:-1])
    write_json_atomic(tmp_path / "any.json", {name: name, "inner": {name: [name]}})
    code, out, error = run("info", tmp_path / "any.json")
    assert (code, error) == (0, "") and all(map(is_harmless, out.split("\n")))


# Who prints by itself, and why. What they print is `rich.text.Text` of readable words, as tested above.
ALLOWED = {
    ("printing.py", "print"): "the one place",
    ("printing.py", "sys.stdout"): "the one place",
    ("printing.py", "sys.stderr"): "the one place",
    ("run/table.py", "Console"): "tables",
    ("run/table.py", "console.print"): "tables",
    ("progress.py", "Console"): "the bar on a terminal",
    ("progress.py", "self._bar.console.print"): "the line above the bar",
    ("progress.py", "sys.stderr"): "asked whether it is a terminal",
    ("distributed.py", "sys.stdout"): "flushed",
    ("distributed.py", "sys.stderr"): "flushed",
    ("weights/push.py", "sys.stderr"): "asked whether it is a terminal",
    ("run/main.py", "sys.stdout"): "flushed, and told to go elsewhere under --json",
    ("run/main.py", "sys.stderr"): "flushed, and takes standard output's place under --json",
    ("run/processes.py", "os.write"): "our own sentence, in a handler of signals, where nothing else may run",
}
PRINTERS = re.compile(
    r"(rich\.|builtins\.)?print|rprint|pprint(\.\w+)?|.*\bconsole\.(print|log|out|rule)|(rich\.(console\.)?)?Console|os\.write"
    r"|sys\.(__)?std(out|err)(__)?|logging\.(debug|info|warning|error|critical|exception)|warnings\.warn"
    r"|traceback\.print_\w+"
)


def printers(source: str) -> set[str]:
    """By what a file's text prints: calls of printers, and the streams themselves."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and node.module in ("sys", "rich", "os"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if PRINTERS.fullmatch(name)}


def test_nobody_prints_by_another_way():
    there = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in ROOT.rglob("*.py")
        for name in printers(path.read_text(encoding="utf-8"))
    }
    assert there == set(ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        *("print(name)", "sys.stdout.write(name)", "sys.stderr.writelines([name])", "print(name, file=f)"),
        *("console.print(name)", "self.console.print(name)", "rich.print(name)", "os.write(2, name)"),
        *(
            "from sys import stdout",
            "logging.warning(name)",
            "warnings.warn(name)",
            "write = sys.stdout.write",
        ),
    ],
)
def test_the_rule_sees_another_way(line):
    assert printers(line) or printers(f"def f():\n    {line}")
