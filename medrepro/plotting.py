"""Figures and tables of the book: one style, and one way to show a picture with its caption, alt text and numbers.

A figure is emitted as one bundle that JupyterLab shows as it is (picture, caption, folded table); the same parts lie in
the output's metadata, from which the book's staging step makes a numbered figure (see `medrepro.staging`).
"""

import base64
import html
import io
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

#: Colour-blind-safe colours (seaborn's "colorblind" set), each with a marker and a line style of its own.
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#949494", "#ece133", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 2, 1, 2)), (0, (2, 1)))
#: Width of the text column in inches: a figure of this width is shown unscaled, with text of 9 pt or more.
WIDTH = 7.0


def use_style() -> None:
    """Set the style of all figures: opaque light background (also right in dark mode), 9 pt text or larger."""
    plt.rcParams.update({
        "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white",
        "figure.dpi": 110, "savefig.dpi": 160, "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "legend.fontsize": 9,
        "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.frameon": False, "lines.linewidth": 2,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False, "image.cmap": "gray",
        "axes.prop_cycle": plt.cycler(color=COLOURS),
    })  # fmt: skip


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of the series with this index: they always differ together."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def show_maps(
    maps: dict[str, Any], *, columns: int | None = None, label: str = "", limits: tuple[float, float] | None = None,
    cmap: str = "gray", width: float = WIDTH, each: bool = False,
) -> plt.Figure:  # fmt: skip
    """Pictures side by side, with one described colour bar for all, or one `each`.

    Parameters
    ----------
    maps
        Title -> array of shape (H, W), or (H, W, 3) in [0, 1], which is drawn in its own colours.
    label
        What the colours stand for, with unit.
    limits
        Smallest and largest value drawn; default: those of all maps together.
    """
    count = len(maps)
    columns = columns or count
    rows = -(-count // columns)
    grey = [np.asarray(a) for a in maps.values() if np.ndim(a) == 2]
    if limits is None and grey and not each:
        limits = (min(float(a.min()) for a in grey), max(float(a.max()) for a in grey))
    figure, axes = plt.subplots(rows, columns, figsize=(width, (width / columns) * rows * 0.92 + 0.3), squeeze=False)
    drawn = None
    for axis, (title, array) in zip(axes.flat, maps.items()):
        colour = np.ndim(array) == 3
        low, high = limits or (None, None)
        image = axis.imshow(
            array, **({} if colour else {"cmap": cmap, "vmin": low, "vmax": high}), interpolation="nearest"
        )
        axis.set_title(title)
        if each and not colour:
            figure.colorbar(image, ax=axis, shrink=0.7, label=label)
        drawn = drawn if colour else image
    for axis in axes.flat:
        axis.set_axis_off()
    if drawn is not None and not each and label:
        figure.colorbar(drawn, ax=axes, shrink=0.75, label=label)
    return figure


def png(figure: plt.Figure) -> bytes:
    """The figure as PNG bytes that depend on its content alone."""
    from PIL import Image

    figure.set_dpi(plt.rcParams["savefig.dpi"])
    canvas = FigureCanvasAgg(
        figure
    )  # laid out and drawn by one renderer, which knows all sizes of text: `savefig` takes two
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


def number(value: Any) -> str:
    """A table cell as text: four significant digits for floats, an en dash for what is missing."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


def table_html(table: pd.DataFrame, *, caption: str) -> str:
    """A table with caption and header cells for rows and columns, in a box that scrolls by keyboard where it is wide.

    The first column names the rows.
    """
    head = "".join(f'<th scope="col">{html.escape(str(name).strip() or "–")}</th>' for name in table.columns)
    body = ""
    for row in table.itertuples(index=False):
        first, *rest = (html.escape(number(value)) for value in row)
        body += f'<tr><th scope="row">{first.strip() or "–"}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
    label = html.escape(caption, quote=True)
    return (
        f'<div class="mr-scroll" tabindex="0" role="region" aria-label="{label}"><table class="mr-table table">'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(summary: str, content: str) -> str:
    """HTML that opens on click or key."""
    return f'<details class="mr-folded"><summary>{html.escape(summary)}</summary>{content}</details>'


def emit_figure(name: str, picture: bytes, *, caption: str, alt: str, below: str) -> None:
    """Display a picture as one bundle: HTML for JupyterLab, PNG and metadata for the book, alt text as plain text."""
    from IPython.display import display

    if not alt.strip() or alt.strip().lower().startswith(("image of", "figure", "picture of")):
        raise ValueError(f"figure {name}: the alt text states the point of the picture with a number, got {alt!r}")
    data = base64.b64encode(picture).decode()
    source = (
        f'<figure><img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}" style="max-width:100%">'
        f"<figcaption>{html.escape(caption)}</figcaption>{below}</figure>"
    )
    metadata = {"medrepro": {"name": name, "caption": caption, "alt": alt, "below": below}}
    display({"text/html": source, "image/png": data, "text/plain": alt}, raw=True, metadata=metadata)


def emit_html(content: str, plain: str) -> None:
    """Display HTML with a plain text for readers without it."""
    from IPython.display import display

    display({"text/html": content, "text/plain": plain}, raw=True)


def glue(key: str, text: str) -> None:
    """Keep a finished string under a key, for ``{glue:text}`` in prose (the book's reader finds it by its metadata)."""
    from IPython.display import display

    mime = "application/papermill.record/"
    display({mime + "text/plain": repr(text)}, raw=True, metadata={"scrapbook": {"name": key, "mime_prefix": mime}})
