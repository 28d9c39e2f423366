"""The parts of the page that gradio lacks."""

from digit.page import parts


def test_they_ask_no_other_host():
    texts = [value for value in vars(parts).values() if isinstance(value, str)]
    assert len(texts) > 5
    assert not [text for text in texts if "http" in text or "//" in text or "@import" in text]
