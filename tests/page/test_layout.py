"""The layout's bounds, seen from gradio's side; a stand-in for gradio notes what it is told.

What it looks like and does in a browser is in tests_browser.
"""

import sys
from unittest.mock import MagicMock

import pytest

from digit import DigitError, DigitPipeline
from digit.page.clicks import Page
from digit.page.layout import WAITING, layout, serve, told
from digit.page.pictures import MOST_BYTES


class Error(Exception):
    def __init__(self, words, **_):
        super().__init__(words)


@pytest.fixture
def gradio(monkeypatch):
    stand_in = MagicMock()
    stand_in.Error = type(
        "Error", (Exception,), {"__init__": lambda self, words, **_: Exception.__init__(self, words)}
    )
    stand_in.SelectData = type("SelectData", (), {})
    monkeypatch.setitem(sys.modules, "gradio", stand_in)
    return stand_in


def test_nothing_is_unbounded_shared_or_counted(gradio, chain):
    pipeline = DigitPipeline.from_pretrained(chain.root / "model")
    blocks = layout(Page(pipeline, [], {"autoregressive": (pipeline, None), "masked": (pipeline, "masked")}))
    made = gradio.Blocks.return_value.__enter__.return_value
    assert gradio.Blocks.call_args.kwargs["analytics_enabled"] is False
    assert made.queue.call_args.kwargs == {
        "max_size": WAITING,
        "default_concurrency_limit": 1,
        "api_open": False,
    }
    assert blocks is made.queue.return_value
    blocks.launch.return_value = (None, "http://127.0.0.1:7860/", "")
    assert serve(blocks, "127.0.0.1", 7860) == "http://127.0.0.1:7860/"
    how = blocks.launch.call_args.kwargs
    assert how["server_name"] == "127.0.0.1" and how["max_file_size"] == MOST_BYTES
    unused = ("share", "enable_monitoring", "ssr_mode", "pwa", "mcp_server", "run_history")
    assert all(how[name] is False for name in unused)
    clicks = [
        *gradio.Button.return_value.click.call_args_list,
        *gradio.HTML.return_value.select.call_args_list,
    ]
    joined = [call.kwargs for call in clicks if "cancels" not in call.kwargs]
    assert len(joined) == 5 and all(
        (call["concurrency_id"], call["concurrency_limit"]) == ("model", 1) for call in joined
    )


def test_a_visitors_mistake_is_a_sentence_without_html(gradio):
    def wrong():
        yield 1
        raise DigitError("no class <script>: choose another")

    values = told(wrong)()
    assert next(values) == 1
    with pytest.raises(gradio.Error, match="no class &lt;script&gt;: choose another"):
        next(values)
