"""digit.figure: a file whole or not at all, and no window."""

import pytest
from PIL import Image

from digit.figure import new_figure, save_figure


def test_a_figure_has_its_inches_times_dots_as_pixels(tmp_path):
    figure = new_figure(3, 2)
    figure.subplots().plot([0, 1], [0, 1])
    assert save_figure(figure, tmp_path / "a.png", dpi=50) is figure
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (150, 100)


def test_what_fails_to_be_drawn_leaves_the_old_file(tmp_path, monkeypatch):
    figure = new_figure(3, 2)
    save_figure(figure, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def broken(file, **options):
        raise OSError("no room")

    monkeypatch.setattr(figure, "savefig", broken)
    with pytest.raises(OSError, match="no room"):
        save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
