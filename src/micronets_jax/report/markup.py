"""HTML and SVG as values: elements, bars, tables, line charts.

Invariant: text is escaped where it enters an element; only :class:`Html` is taken as markup.

Charts are drawn here and not by a plotting library, as their lines and letters take the colours of
the page's style, light or dark, and are text that a reader can search.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

Number = int | float


class Html(str):
    """Text that is markup already; any other text is escaped on its way in."""


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. ``class_`` stands for class, ``aria_label`` for aria-label; None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def picture(png: str, text: str) -> Html:
    """A picture that lies in the page itself: PNG as base64, and what it shows."""
    return Html(f'<img src="data:image/png;base64,{html.escape(png)}" alt="{html.escape(text)}">')


def join(children: object) -> Html:
    """Children one after the other: markup, text to escape, lists of these; None is nothing."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, list | tuple):
        return Html("".join(join(child) for child in children))
    return Html(html.escape(str(children)))


def section(title: str, note: object, *children: object) -> Html:
    """A titled part of the page; ``note`` says how to read it."""
    note = tag("p", note, class_="note") if note else None
    return tag("section", tag("h2", title), note, *children)


def bar(label: str | None, *pieces: tuple[str, Number, Number, str | None]) -> Html:
    """Pieces (class, first and last percent, tooltip) on a track; ``label`` is read out."""
    drawn = [
        tag("i", class_=kind, style=f"--from:{start:.2f};--size:{end - start:.2f}", title=tip)
        for kind, start, end, tip in pieces
    ]
    spoken = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return tag("div", drawn, class_="bar", **spoken)


def rows(kind: str, items: Sequence[Html]) -> Html:
    """A list whose items share their columns."""
    return tag("ul", items, class_=f"rows {kind}", role="list")


def key(*entries: tuple[str, str]) -> Html:
    """What the colours of bars mean: (class, meaning)."""
    return tag("ul", [tag("li", tag("i", class_=k), text) for k, text in entries], class_="key")


def command(words: str) -> Html:
    """A command line; it breaks between words only, not after the hyphens of an option."""
    spans = [[tag("span", word), " "] for word in words.split(" ")]
    return tag("pre", tag("code", spans))


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], numbers: int
) -> Html:
    """A list whose first column names the row and whose columns from ``numbers`` on are numbers.

    Args:
        caption: of the table, for screen readers.
        head: of each column.
        rows: cells of each row.
        numbers: index of the first column of numbers.

    Returns:
        The table, which scrolls within itself where it is too wide.
    """

    def style(i: int) -> str | None:
        return "number" if i >= numbers else None

    top = [tag("th", text, scope="col", class_=style(i)) for i, text in enumerate(head)]
    body = [
        tag(
            "tr",
            [
                tag("td", cell, class_=style(i)) if i else tag("th", cell, scope="row")
                for i, cell in enumerate(row)
            ],
        )
        for row in rows
    ]
    table = tag(
        "table", tag("thead", tag("tr", top)), tag("tbody", body), class_="list", aria_label=caption
    )
    return scroll(caption, table)


def scroll(label: str, content: Html) -> Html:
    """Content that scrolls within itself where it is too wide, by keyboard too."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


# ---------------------------------------------------------------- line charts


Points = Sequence[tuple[Number, Number]]
"""Epoch and value."""


def series(records: Sequence[Mapping[str, Any]], name: str) -> Points:
    """The finite values of a name with the records' numbers, from 1."""
    values = [(i, row.get(name)) for i, row in enumerate(records, 1)]
    return [(i, v) for i, v in values if isinstance(v, int | float) and math.isfinite(v)]


_STYLES = 8  # of lines: as many as the page's style sheet tells apart by colour and dashes

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 440, 210, 44, 34, 8  # pixels at a half page's width


def chart(
    title: str,
    series: Mapping[str, Points],
    style: str,
    line: Number | None = None,
    span: tuple[Number, Number] | None = None,
    across: str = "epoch",
    decades: bool = False,
    dots: Points = (),
) -> Html | None:
    """A line chart as SVG with a legend.

    Args:
        title: of the chart.
        series: points by name; empty ones are left out.
        style: class of the drawing.
        line: a level to compare with.
        span: ends of a stretch of the horizontal axis that is shaded.
        across: what the horizontal axis shows: ``epoch``, or shares, written in percent.
        decades: whether the horizontal axis is logarithmic, of values above 0.
        dots: points beside the lines.

    Returns:
        None where no series has a point.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    if decades:
        series = {k: [(math.log10(x), y) for x, y in points] for k, points in series.items()}
        dots = [(math.log10(x), y) for x, y in dots]
        span = (math.log10(span[0]), math.log10(span[1])) if span else None
    spots = [*itertools.chain(*series.values()), *dots]
    xs = [x for x, _ in spots]
    ys = [y for _, y in spots] + ([line] if line is not None else [])
    levels = ticks(min(ys), max(ys), 5)
    counted = across == "epoch"
    low, high, first, last = levels[0], levels[-1], min(xs), max(xs)
    if counted or decades or first == last:
        last = max(last, first + 1)

    def at(x: Number, y: Number) -> tuple[Number, Number]:
        across = _LEFT + (x - first) / (last - first) * (_WIDTH - _LEFT - 6)
        return across, _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def rule(y: Number, kind: str) -> Html:
        (x1, height), (x2, _) = at(first, y), at(last, y)
        ends = {"x1": f"{x1:.1f}", "x2": f"{x2:.1f}", "y1": f"{height:.1f}", "y2": f"{height:.1f}"}
        return tag("line", class_=kind, **ends)

    def level(y: Number) -> str:
        return f"{100 * y:.4g}%" if style.endswith("%}") else f"{y:.4g}"

    def text(x: Number, y: Number, words: str, anchor: str) -> Html:
        return tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)

    drawn = []
    if span:
        (x1, top), (x2, bottom) = at(max(first, span[0]), high), at(span[1], low)
        drawn.append(
            tag(
                "rect",
                x=f"{x1:.1f}",
                y=f"{top:.1f}",
                width=f"{x2 - x1:.1f}",
                height=f"{bottom - top:.1f}",
                class_="span",
            )
        )
    for y in levels:
        height = at(first, y)[1]
        drawn += [rule(y, "grid"), text(_LEFT - 6, height + 4, level(y), "end")]
    for x in ticks(first, last, 6):
        if first <= x <= last and (x == int(x) or not (counted or decades)):
            label = f"{x:.0f}" if counted else f"{10**x:,.4g}" if decades else f"{100 * x:.4g}%"
            drawn.append(text(at(x, low)[0], _HEIGHT - _BOTTOM + 16, label, "middle"))
    drawn.append(text((_LEFT + _WIDTH) / 2, _HEIGHT - 3, across, "middle"))
    if line is not None:
        drawn.append(rule(line, "at-one"))
    for x, y in (at(*point) for point in dots):
        drawn.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.6", class_="other"))
    entries, said = [], []
    for i, (name, points) in enumerate(series.items()):
        kind = f"s{i % _STYLES}"
        spots = [at(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        drawn.append(tag("polyline", points=path, class_=f"line {kind}", style="fill:none"))
        x, y = spots[-1]
        drawn.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.6", class_=f"dot {kind}"))
        latest = style.format(points[-1][1]).replace("%", "\u00a0%")
        sample = tag(
            "svg",
            tag("line", x1="0", x2="27", y1="5", y2="5", class_=f"line {kind}"),
            viewBox="0 0 27 10",
            aria_hidden="true",
        )
        entries.append(tag("li", sample, f"{name} {latest}" if counted else name))
        said.append(f"{name} from {style.format(points[0][1])} to {style.format(points[-1][1])}")
    drawing = tag(
        "svg",
        drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}: {'; '.join(said)}",
    )
    return tag("figure", tag("h3", title), tag("ul", entries, class_="key"), drawing)


def ticks(low: Number, high: Number, count: int) -> list[Number]:
    """About ``count`` round numbers, the first at most ``low`` and the last at least ``high``."""
    largest = max(abs(low), abs(high))
    if high - low <= 1e-6 * max(largest, 1e-6):  # level: show a little around it
        pad = largest / 20 if largest > 1e-6 else 0.05
        low, high = low - pad, high + pad
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
