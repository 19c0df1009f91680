import io
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medrepro import plotting

pytestmark = pytest.mark.quick


class Reader(HTMLParser):
    """Tags with attributes, the text of every cell, and a check that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "br"):
            self.open.append(tag)
        if tag in ("th", "td", "caption", "summary", "figcaption"):
            self.cells.append([tag, dict(attributes).get("scope"), ""])

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td", "caption", "summary", "figcaption"):
            self.cells[-1][2] += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def shown(monkeypatch):
    """Bundles that were displayed, with their metadata."""
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata=None: seen.append((data, metadata)))
    return seen


TABLE = pd.DataFrame({"model": ["a<b", "c&d"], "dice": [0.123456, np.nan], "n": [3, 4]})


def test_a_table_has_a_caption_and_header_cells_with_scope():
    page = Reader(plotting.table_html(TABLE, caption="Dice of two models"))
    assert ["caption", None, "Dice of two models"] in page.cells
    assert [cell[2] for cell in page.cells if cell[:2] == ["th", "col"]] == ["model", "dice", "n"]
    assert [cell[2] for cell in page.cells if cell[:2] == ["th", "row"]] == ["a<b", "c&d"]
    assert [cell[2] for cell in page.cells if cell[0] == "td"] == ["0.1235", "3", "–", "4"]


def test_a_wide_table_scrolls_by_keyboard_and_is_named():
    [(_, box)] = [one for one in Reader(plotting.table_html(TABLE, caption='The "best"')).tags if one[0] == "div"]
    assert (box["tabindex"], box["role"], box["aria-label"]) == ("0", "region", 'The "best"')


def test_html_in_names_cells_and_caption_is_shown_as_text():
    evil = "<script>alert('x')</script>"
    text = plotting.table_html(pd.DataFrame({evil: [evil], "b": [evil]}), caption=evil)
    text += plotting.folded(evil, "")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 6  # caption twice, header, row, cell, summary
    Reader(text)


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"": ["a"], "b": [1]}),
        pd.DataFrame({"a": [""], "b": [1]}),
        pd.DataFrame({"a": [None], "b": [1]}),
        pd.DataFrame({"a": [np.nan], " ": [1]}),
    ],
    ids=["column", "row", "row without value", "column of blanks"],
)
def test_no_header_is_empty(table):
    """A screen reader would read such a column or row without a name."""
    headers = [cell[2] for cell in Reader(plotting.table_html(table, caption="c")).cells if cell[0] == "th"]
    assert len(headers) == 3
    assert all(header.strip() for header in headers)


def test_an_empty_table_keeps_its_header():
    page = Reader(plotting.table_html(TABLE.head(0), caption="none yet"))
    assert [cell[2] for cell in page.cells if cell[0] == "th"] == ["model", "dice", "n"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (float("nan"), "–"), (np.float64("nan"), "–"), (np.float32("nan"), "–"), (0.123456, "0.1235"), (np.float32(0.5), "0.5"),
        (12345.678, "1.235e+04"), (7, "7"), (np.int64(7), "7"), (True, "True"), ("text", "text"), (0.0, "0"), (-1.5, "-1.5"),
    ],
)  # fmt: skip
def test_numbers_have_four_significant_digits_and_a_dash_where_missing(value, text):
    assert plotting.number(value) == text


@pytest.mark.parametrize(
    "alt", ["", "   ", "image of a map", "Image of a map", "Figure 3", "picture of dice", "\nimage of x"]
)
def test_a_figure_without_a_point_in_its_alt_text_is_refused(shown, alt):
    with pytest.raises(ValueError, match="figure fig-x: the alt text states the point of the picture with a number"):
        plotting.emit_figure("fig-x", b"png", caption="c", alt=alt, below="")
    assert shown == []


def test_a_figure_is_one_bundle_for_jupyter_the_book_and_readers_without_pictures(shown):
    plotting.emit_figure("fig-x", b"png", caption="1 < 2", alt='Dice is 0.5 "here"', below="<p>table</p>")
    [(data, metadata)] = shown
    assert set(data) == {"text/html", "image/png", "text/plain"}
    assert data["image/png"] == "cG5n"  # base64 of png
    assert data["text/plain"] == 'Dice is 0.5 "here"'
    expected = {"name": "fig-x", "caption": "1 < 2", "alt": 'Dice is 0.5 "here"', "below": "<p>table</p>"}
    assert metadata == {"medrepro": expected}
    page = Reader(data["text/html"])
    [image] = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == 'Dice is 0.5 "here"'
    assert image["src"] == "data:image/png;base64,cG5n"
    assert ["figcaption", None, "1 < 2"] in page.cells


def test_glue_keeps_a_string_under_its_key_as_the_book_reads_it(shown):
    plotting.glue("dice", "0.5")
    [(data, metadata)] = shown
    assert data == {"application/papermill.record/text/plain": "'0.5'"}
    assert metadata == {"scrapbook": {"name": "dice", "mime_prefix": "application/papermill.record/"}}


def test_a_fold_opens_by_its_summary():
    page = Reader(plotting.folded("The numbers", "<p>42</p>"))
    assert [tag for tag, _ in page.tags] == ["details", "summary", "p"]
    assert page.cells == [["summary", None, "The numbers"]]


def draw():
    plotting.use_style()
    figure, axis = plt.subplots(figsize=(plotting.WIDTH, 2))
    axis.plot([0, 1], [0, 1], **plotting.look(0))
    return figure


def test_a_picture_depends_on_its_content_alone_and_is_closed():
    before = plt.get_fignums()
    first, second = plotting.png(draw()), plotting.png(draw())
    assert first == second
    assert b"Matplotlib" not in first
    assert plt.get_fignums() == before


def test_pictures_have_an_opaque_light_background():
    corner = np.asarray(Image.open(io.BytesIO(plotting.png(draw()))).convert("RGBA"))[0, 0]
    assert corner.tolist() == [255, 255, 255, 255]


def test_text_is_nine_points_or_larger():
    plotting.use_style()
    sizes = [value for key, value in plt.rcParams.items() if key in (
        "font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize")]  # fmt: skip
    assert len(sizes) == 6
    assert min(sizes) >= 9


def test_series_differ_by_colour_marker_and_line_together():
    looks = [plotting.look(index) for index in range(9)]
    for key in ("color", "marker", "linestyle"):
        assert len({str(look[key]) for look in looks}) == 9
    assert plotting.look(9) == looks[0]


def test_maps_share_one_described_colour_bar_and_one_scale():
    maps = {"a": np.zeros((4, 4)), "b": np.full((4, 4), 3.0), "photo": np.ones((4, 4, 3))}
    figure = plotting.show_maps(maps, label="exponent")
    images = [axis.images[0] for axis in figure.axes if axis.get_title()]
    assert [image.get_clim() for image in images[:2]] == [(0, 3), (0, 3)]
    assert [axis.get_title() for axis in figure.axes][:3] == ["a", "b", "photo"]
    assert len(figure.axes) == 4
    assert "exponent" in (figure.axes[-1].get_ylabel(), figure.axes[-1].get_xlabel())
    plt.close(figure)


def test_maps_with_a_bar_each_keep_their_own_scale():
    figure = plotting.show_maps({"a": np.arange(16.0).reshape(4, 4), "b": np.eye(4)}, columns=1, each=True, label="x")
    titled = [axis.images[0].get_clim() for axis in figure.axes if axis.get_title()]
    assert titled == [(0, 15), (0, 1)]
    assert len(figure.axes) == 4
    plt.close(figure)


def test_given_limits_hold():
    figure = plotting.show_maps({"a": np.eye(4)}, limits=(-1, 2))
    assert figure.axes[0].images[0].get_clim() == (-1, 2)
    plt.close(figure)
