"""`digit demo`: what it says and refuses; the page itself is in tests/page and tests_browser."""

import json
import re
import sys
import tomllib
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import yaml

from digit.page import layout
from digit.run import demo
from digit.run.main import understand

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch):
    """A page that is never served: the command's calls are noted, and Ctrl-C comes at once."""
    noted = MagicMock()
    noted.serve.side_effect = lambda blocks, host, port: f"http://{host}:{port}/"
    monkeypatch.setitem(sys.modules, "gradio", MagicMock())
    monkeypatch.setattr(layout, "layout", noted.layout)
    monkeypatch.setattr(layout, "serve", noted.serve)
    here = MagicMock()  # for the command alone: threads of progress bars wait too
    here.Event.return_value.wait.side_effect = KeyboardInterrupt
    monkeypatch.setattr(demo, "threading", here)
    return noted


def test_without_gradio_it_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, out, err = run("demo")
    assert (code, out) == (2, "")
    assert err == 'digit: digit demo needs gradio: pip install "digit-image[demo]"\n'


def test_it_says_where_the_page_is_until_ctrl_c(chain, run, page):
    code, _, err = run("demo", chain.root / "model", "--device", "cpu")
    assert code == 130 and "the page is at http://127.0.0.1:7860/; Ctrl-C ends it\n" in err
    shown = page.layout.call_args.args[0]
    assert shown.words == [str(chain.root / "model"), "--device", "cpu"]
    assert list(shown.renderings) == ["autoregressive", "masked"]
    page.layout.return_value.close.assert_called_once()


def test_another_host_is_open_to_all_and_said_so(chain, run, page):
    _, _, err = run("demo", chain.root / "model", "--host", "0.0.0.0", "--port", 8000)
    assert "http://0.0.0.0:8000/, open to all who can reach this machine; Ctrl-C ends it" in err


def test_another_model_of_the_same_codes_stands_beside(chain, run, page):
    model, other = chain.root / "model", f"{chain.root}/./model"
    assert run("demo", model, "--against", other)[0] == 130
    titles = [f"{each}: {name}" for each in (model, other) for name in ("autoregressive", "masked")]
    assert list(page.layout.call_args.args[0].renderings) == titles
    code, _, err = run("demo", model, "--against", "cifar10")
    assert code == 2 and "--against cifar10 has other codes or classes" in err


def test_a_taken_port_is_a_sentence(chain, run, page):
    page.serve.side_effect = OSError("Cannot find empty port in range: 7860-7860")
    code, _, err = run("demo", chain.root / "model")
    assert code == 2 and "--port 7860: choose another port" in err


def test_it_takes_five_options():
    page = understand(["demo", "--help"])
    assert len(re.findall(r"^  (?:--(?!help|json|config)|MODEL)", str(page), re.MULTILINE)) == 5


def test_a_space_is_this_very_file_with_a_header():
    """As the hub reads it: the fields it needs, the versions and the licence of this package."""
    text = (ROOT / "space/README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---")[1])
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert header["sdk"] == "gradio" and header["app_file"] == "app.py"
    (wanted,) = package["optional-dependencies"]["demo"]
    assert wanted == f"gradio>={header['sdk_version'].rpartition('.')[0]},<7"
    assert header["license"] == package["license"].lower() and set(header) >= {
        "title",
        "emoji",
        "colorFrom",
        "colorTo",
    }
    assert (ROOT / "space/requirements.txt").read_text().split() == [f"{package['name']}[demo]"]
    code = (ROOT / "digit/run/demo.py").read_text(encoding="utf-8")
    assert code.endswith('if __name__ == "__main__":  # as a Space starts it\n    demo(host="0.0.0.0")\n')


def test_times_are_the_measured_ones():
    found = json.loads((ROOT / "bench/results/page.json").read_text())
    rows = dict(
        re.findall(r"^\| (\w+ to [\w ]+) \| ([\d.]+) \|$", (ROOT / "docs/demo.md").read_text(), re.MULTILINE)
    )
    assert len(rows) == 3
    assert all(float(value) == sorted(found["seconds"][name])[1] for name, value in rows.items())
    assert f"load was {found['load']};" in (ROOT / "docs/demo.md").read_text()
