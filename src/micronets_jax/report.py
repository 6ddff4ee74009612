"""A run's results as one page for people: ``report.html``.

Invariant: the page is one file that loads nothing and runs nothing, the same bytes for the same
results, and every text in it is escaped where it enters (only :class:`Html` is taken as markup).

Figures are HTML bars and small SVG drawings rather than rendered plots: they follow the reader's
light or dark theme, keep their text readable on a phone, and a screen reader finds numbers in them.
"""

from __future__ import annotations

import html
import json
import math
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from micronets_jax import cost, export, memory, network
from micronets_jax.network import INPUT, Network

Summary = Mapping[str, Any]
Metrics = Sequence[Mapping[str, Any]]

SUMMARY, NETWORK, METRICS, REPORT = "summary.json", "network.json", "metrics.jsonl", "report.html"

FILES = {
    "model.tflite": "the int8 model, to be built into firmware or run on a desktop",
    "labels.txt": "names of the classes, in the order of the model's outputs",
    "frontend.json": "parameters of the front end that turns a recording into the model's input",
    "samples.npz": "test inputs and the outputs expected for them, to check a device against",
    NETWORK: "the found network, one layer a line; micronets_jax.network.from_json reads it",
    "weights": "trained weights and ranges, an Orbax checkpoint",
    SUMMARY: "every number of this page",
    METRICS: "one line for each epoch",
    "events.out.tfevents": "the same for TensorBoard",
    "config.json": "everything that decided this run",
    "checkpoints": "what --resume continues from; may be deleted",
}
"""What a results folder may hold, in the order of use."""


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Write ``report.html`` into a results folder, whole or not at all; returns its path.

    Only ``summary.json`` must be there; what else is missing is left out of the page.

    Raises:
        ValueError: ``summary.json`` is missing, or a file is damaged; the message names it.
    """
    if not (workdir / SUMMARY).is_file():
        raise ValueError(f"workdir={workdir} has no {SUMMARY}: let the run finish (--resume) first")
    summary = _parse(workdir / SUMMARY, json.loads)
    found = (workdir / NETWORK).is_file()
    page = render(
        summary,
        _parse(workdir / NETWORK, network.from_json) if found else None,
        _parse(workdir / METRICS, _lines) if (workdir / METRICS).is_file() else [],
        _sizes(workdir),
    )
    export.save(page.encode(), workdir / REPORT)
    return workdir / REPORT


def render(
    summary: Summary,
    network: Network | None = None,
    metrics: Metrics = (),
    files: Mapping[str, int] | None = None,
) -> str:
    """The page's text.

    Args:
        summary: what ``summary.json`` says; any of its keys may be missing.
        network: the found one, decided.
        metrics: what ``metrics.jsonl`` says, in the order of time.
        files: bytes of each file or folder of :data:`FILES` that is there.
    """
    sections = [
        _headline(summary),
        _limits(summary),
        _confusion(summary),
        _tag("div", _widths(summary), _memory(summary, network), class_="pair"),
        _search(summary, metrics),
        _training(metrics),
        _layers(network),
        _tag("div", _prediction(summary), _origin(summary), class_="pair"),
        _files(files or {}, summary),
    ]
    template = resources.files(__package__).joinpath("report.html.template").read_text()
    title = " · ".join(["micronets_jax", *_names(summary)])
    return string.Template(template).substitute(title=html.escape(title), body=_join(sections))


# ---------------------------------------------------------------- reading


def _parse(path: pathlib.Path, parser: Callable[[str], Any]) -> Any:
    try:
        return parser(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); run again with --resume") from error


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _sizes(workdir: pathlib.Path) -> dict[str, int]:
    sizes = {}
    for name in FILES:
        found = sorted(workdir.glob(f"{name}*" if name.startswith("events") else name))
        inside = [q for p in found for q in ([p] if p.is_file() else sorted(p.rglob("*")))]
        if found:
            sizes[name] = sum(q.stat().st_size for q in inside if q.is_file())
    return sizes


# ---------------------------------------------------------------- markup


class Html(str):
    """Text that is markup already; any other text is escaped on its way in."""


def _tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. ``class_`` stands for class, ``aria_label`` for aria-label; None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{_join(children)}</{name}>")


def _join(children: Any) -> Html:
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, list | tuple):
        return Html("".join(_join(child) for child in children))
    return Html(html.escape(str(children)))


def _section(title: str, note: Any, *children: Any) -> Html:
    note = _tag("p", note, class_="note") if note else None
    return _tag("section", _tag("h2", title), note, *children)


def _bar(label: str | None, *pieces: tuple[str, float, float, str | None]) -> Html:
    """Pieces (class, first and last place in percent, tooltip) on a track; ``label`` is read out."""
    drawn = [
        _tag("i", class_=kind, style=f"--from:{start:.2f};--size:{end - start:.2f}", title=tip)
        for kind, start, end, tip in pieces
    ]
    spoken = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return _tag("div", drawn, class_="bar", **spoken)


def _rows(kind: str, rows: Sequence[Html]) -> Html:
    return _tag("ul", rows, class_=f"rows {kind}", role="list")


def _key(*entries: tuple[str, str]) -> Html:
    return _tag("ul", [_tag("li", _tag("i", class_=k), text) for k, text in entries], class_="key")


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], numbers: int) -> Html:
    """A list whose first column names the row and whose columns from ``numbers`` on are numbers."""

    def style(i: int) -> str | None:
        return "number" if i >= numbers else None

    top = [_tag("th", text, scope="col", class_=style(i)) for i, text in enumerate(head)]
    body = [
        _tag("tr", [
            _tag("td", cell, class_=style(i)) if i else _tag("th", cell, scope="row")
            for i, cell in enumerate(row)
        ])
        for row in rows
    ]  # fmt: skip
    table = _tag(
        "table", _tag("thead", _tag("tr", top)), _tag("tbody", body), class_="list", aria_label=caption
    )
    return _scroll(caption, table)


def _scroll(label: str, content: Html) -> Html:
    # A wide table scrolls within itself; with a tab stop, the keyboard can do so too.
    return _tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


# ---------------------------------------------------------------- numbers


def _kib(size: float) -> str:
    return f"{size / 1024:,.1f}\u00a0KiB"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u00a0%"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min {rest}\u00a0s" if minutes else f"{rest}\u00a0s"


def _show(value: Any, style: Callable[[Any], str]) -> str:
    return "?" if value is None else style(value)


LIMITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "sram_bytes": ("SRAM", _kib),
    "flash_bytes": ("Flash", _kib),
    "mops": ("Operations", lambda x: f"{x:,.2f}\u00a0million"),
    "latency_ms": ("Latency, estimated", lambda x: f"{x:,.0f}\u00a0ms"),
}
"""What may be limited: its title and how its values are written."""


def _names(summary: Summary) -> list[str]:
    named = [summary.get("experiment"), summary.get("preset")]
    seed = [f"seed {summary['seed']}"] if "seed" in summary else []
    return [str(name) for name in named if name] + seed


# ---------------------------------------------------------------- what was found


def _headline(summary: Summary) -> Html:
    accuracy, device = summary.get("accuracy", {}), summary.get("device", {})
    limits, shape = summary.get("limits", {}), summary.get("network", {})
    board, best = device.get("name", "the device"), accuracy.get("int8", accuracy.get("float"))
    over = [LIMITS[n][0] if n in LIMITS else n for n, x in limits.items() if _share(x) > 1]
    verdict = f"over the limit of {board} in {', '.join(over)}" if over else f"it fits {board}"
    if not limits:
        verdict = f"a network for {board}"
    title = verdict if best is None else f"{_percent(best)} right, and {verdict}"
    data = summary.get("data", {})
    tested = data.get("test")
    uses = [
        f"{style(limits[name]['used'])} {text}"
        for name, style, text in (
            ("sram_bytes", _kib, "of SRAM"),
            ("flash_bytes", _kib, "of flash"),
            ("latency_ms", LIMITS["latency_ms"][1], "an inference (an estimate)"),
        )
        if "used" in limits.get(name, {})
    ]
    lead = [
        f"Measured on {_count(tested)} test examples of {data.get('name', 'the data set')}, "
        f"{len(data.get('classes', ()))} classes. "
        if tested
        else "",
        f"The int8 model takes {', '.join(uses)}." if uses else "",
    ]
    examples = summary.get("tflm_examples")
    error = math.sqrt(best * (1 - best) / tested) if tested and best is not None else None
    figures = [
        ("Accuracy, float", "float", "as trained"),
        (
            "Accuracy, int8",
            "int8",
            f"± {_percent(error)} standard error" if error is not None else "the exported file",
        ),
        (
            "Accuracy, TFLM",
            "tflm",
            f"on {_count(examples)} of them" if examples else "on the host interpreter",
        ),
    ]
    tiles = [(t, _percent(accuracy[k], 2), sub) for t, k, sub in figures if accuracy.get(k) is not None]
    if "macs" in shape:
        tiles.append(("MACs", f"{shape['macs'] / 1e6:,.2f}\u00a0M", "multiply-accumulates"))
    if "weights" in shape:
        tiles.append(("Weights", _count(shape["weights"]), f"in {shape.get('layers', '?')} layers"))
    if summary.get("seconds"):
        tiles.append(("Made in", _time(sum(summary["seconds"].values())), "all stages"))
    return _tag(
        "header",
        _tag("p", " · ".join(["micronets_jax", *_names(summary)]), class_="eyebrow"),
        _tag("h1", title[0].upper() + title[1:]),
        _tag("p", lead, class_="lead"),
        _tag("dl", [
            _tag("div", _tag("dt", name), _tag("dd", value), _tag("dd", sub))
            for name, value, sub in tiles
        ], class_="figures"),
    )  # fmt: skip


def _share(row: Mapping[str, float], key: str = "used") -> float:
    return row[key] / row["limit"] if row.get(key) is not None and row.get("limit") else 0.0


def _limits(summary: Summary) -> Html | None:
    limits = summary.get("limits", {})
    if not limits:
        return None
    shares = [max(1, _share(row), _share(row, "largest")) for row in limits.values()]
    end = min(max(shares), 6) * 1.02  # one scale for all, so that the limits are one line
    rows = []
    for name in [*(n for n in LIMITS if n in limits), *(n for n in limits if n not in LIMITS)]:
        row, (title, style) = limits[name], LIMITS.get(name, (name, lambda x: f"{x:,.4g}"))
        used, largest = _share(row), _share(row, "largest")
        state = "over-text" if used > 1 else None
        compared = f"largest network {largest:.1f}\u00a0×" if largest else ""
        scaled = [min(100.0, 100 * share / end) for share in (largest, used, 1)]
        bar = _bar(
            f"{title}: {_percent(used, 0)} of the limit, {compared or 'largest network unknown'}",
            ("largest", 0, scaled[0], f"largest network: {_show(row.get('largest'), style)}"),
            ("used over" if used > 1 else "used", 0, scaled[1], None),
            ("limit", scaled[2], scaled[2], None),
        )
        text = f"{_show(row.get('used'), style)} of {_show(row.get('limit'), style)}"
        rows.append(_tag(
            "li", _tag("span", title), bar,
            _tag("span", f"{text} ", _tag("b", _percent(used, 0), class_=state), class_="end"),
            _tag("span", compared, class_="end unit"),
        ))  # fmt: skip
    device = summary.get("device", {})
    board = [
        f"{device.get('name', 'The device')}: {device.get('core', '?')} at "
        f"{device.get('clock_mhz', '?')} MHz, {_show(device.get('sram_bytes'), _kib)} of SRAM, "
        f"{_show(device.get('flash_bytes'), _kib)} of flash. "
        if device
        else "",
        f"SRAM is counted for the runtime {summary['runtime']}. " if "runtime" in summary else "",
        "Latency is an estimate from the number of operations. " if "latency_ms" in limits else "",
        "A limit left to the board is its memory less what runtime, firmware and stack take.",
    ]
    key = _key(("used", "found"), ("largest", "largest of the space"), ("limit", "limit"))
    return _section("Limits", board, key, _rows("limits", rows))


def _confusion(summary: Summary) -> Html | None:
    counts = summary.get("confusion")
    if not counts:
        return None
    size = len(counts)
    named = list(summary.get("data", {}).get("classes", ()))
    names = named if len(named) == size else [str(i) for i in range(size)]
    totals = [sum(row) for row in counts]
    columns = [sum(row[j] for row in counts) for j in range(size)]

    def rate(right: int, total: int) -> Html:
        return _tag("td", _percent(right / total) if total else "–", class_="rate")

    def cell(i: int, j: int) -> Html:
        count = counts[i][j]
        kind = ("hit" if i == j else "miss") if count else "none"
        share = f"--share:{count / totals[i]:.3f}" if count else None
        tip = f"{names[i]} taken for {names[j]}: {count} of {totals[i]}" if i != j and count else None
        return _tag("td", count, class_=kind, style=share, title=tip)

    head = [_tag("th", _tag("span", name), scope="col") for name in names]
    body = [
        _tag("tr", _tag("th", names[i], scope="row"), [cell(i, j) for j in range(size)],
             rate(counts[i][i], totals[i]))
        for i in range(size)
    ]  # fmt: skip
    precision = [
        _tag("td", _percent(counts[j][j] / columns[j], 0) if columns[j] else "–") for j in range(size)
    ]
    right = sum(counts[i][i] for i in range(size))
    foot = _tag("tr", _tag("th", "precision", scope="row"), precision, rate(right, sum(totals)))
    corner, recall = _tag("td", ""), _tag("th", "recall", scope="col", class_="rate")
    matrix = _tag(
        "table", _tag("thead", _tag("tr", corner, head, recall)), _tag("tbody", body),
        _tag("tfoot", foot), class_="matrix", aria_label="Confusion matrix",
    )  # fmt: skip
    wrong = sorted(
        ((counts[i][j], i, j) for i in range(size) for j in range(size) if i != j and counts[i][j]),
        key=lambda row: (-row[0], row[1:]),
    )
    listed = [
        _tag("li", _tag("b", names[i]), " taken for ", _tag("b", names[j]), f": {n} of {totals[i]}")
        for n, i, j in wrong[:8]
    ]
    beside = _tag("div", _tag("h3", "Most frequent mistakes"), _tag("ol", listed)) if listed else None
    note = "The int8 model on the test split: rows are true classes, columns what the model said."
    return _section(
        "What is taken for what", note,
        _tag("div", _scroll("Confusion matrix", matrix), beside, class_="confusions"),
    )  # fmt: skip


def _widths(summary: Summary) -> Html | None:
    widths = summary.get("widths", [])
    if not widths:
        return None
    most = max(row["largest"] for row in widths)
    rows = []
    for row in widths:
        found, largest = row.get("found"), row["largest"]
        text = f"{found} of {largest}" if found else "removed"
        pieces = [("largest", 0, 100 * largest / most, None)]
        if found:
            pieces.append(("used", 0, 100 * found / most, None))
        rows.append(_tag(
            "li", _tag("span", row["name"]), _bar(None, *pieces), _tag("span", text, class_="end"),
            class_=None if found else "removed",
        ))  # fmt: skip
    removed = sum(row.get("found") is None for row in widths)
    note = "Output channels of each convolution that had a choice, beside the largest in the space."
    left_out = f" {removed} of the blocks were removed." if removed > 1 else ""
    return _section("Found widths", note + left_out, _rows("widths", rows))


def _memory(summary: Summary, found: Network | None) -> Html | None:
    if found is None:
        return None
    name = summary.get("runtime", "tflm_cortex_m")
    runtime = cost.RUNTIMES.get(name)
    steps = memory.timeline(found, runtime.scratch if runtime else True)
    end = max(block.start + block.bytes for step in steps for block in step.live)
    peak = max(step.live_bytes for step in steps)
    rows, seen = [], set()
    for i, step in enumerate(steps):
        reads = next(op.reads for op in memory.operators(found) if op.layer.name == step.name)
        pieces, spoken = [], []
        for block in sorted(step.live, key=lambda b: b.start):
            kind = "waits"
            if block.name.endswith(" scratch"):
                kind = "scratch"
            elif block.first == i and block.name != INPUT:
                kind = "makes"
            elif block.name in reads:
                kind = "reads"
            seen.add(kind)
            spoken.append(f"{kind} {block.name}, {_count(block.bytes)} bytes at {_count(block.start)}")
            place = (100 * block.start / end, 100 * (block.start + block.bytes) / end)
            pieces.append((kind, *place, spoken[-1]))
        mark = "peak" if step.live_bytes == peak else None
        rows.append(_tag(
            "li", _tag("span", step.name), _bar("; ".join(spoken), *pieces),
            _tag("span", _kib(step.live_bytes), class_="end"), class_=mark,
        ))  # fmt: skip
    note = f"What is alive while each layer runs, where it lies in the arena's {_kib(end)}."
    if runtime:
        arena = cost.arena(found, name)
        note += f" With {_kib(arena.persistent)} of the runtime's own: {_kib(arena.total)} of SRAM."
    texts = {"reads": "read", "makes": "made", "waits": "kept for later", "scratch": "scratch"}
    key = _key(*((kind, text) for kind, text in texts.items() if kind in seen))
    return _section("Memory over time", note, key, _rows("memory", rows))


def _layers(found: Network | None) -> Html | None:
    if found is None:
        return None
    sizes = network.output_sizes(found)
    macs = {x.name: math.prod(sizes[x.name]) * cost.kernel_elements(x) for x in found}
    most = max([1, *macs.values()])
    rows = [
        (
            layer.name, layer.kind.replace("_", " "), "×".join(map(str, layer.kernel)),
            "×".join(map(str, layer.stride)), layer.activation,
            "×".join(map(str, (*sizes[layer.name], layer.out_channels))),
            _count(cost.kernel_elements(layer)), _count(macs[layer.name]),
            _tag("div", _bar(None, ("used", 0, 100 * macs[layer.name] / most, None)), class_="share"),
        )
        for layer in found
    ]  # fmt: skip
    head = ("layer", "kind", "kernel", "stride", "activation", "output", "weights", "MACs", "")
    note = f"Input {'×'.join(map(str, found.input_shape))}; outputs are rows × columns × channels."
    return _section("Layers", note, _table("Layers", head, rows, 6))


# ---------------------------------------------------------------- how it came about


def _search(summary: Summary, metrics: Metrics) -> Html | None:
    records = [row for row in metrics if row.get("stage") == "search"]
    if not records:
        return None
    limited = [name for name in LIMITS if any(name in row for row in records)]
    shares = {LIMITS[name][0]: _series(records, name) for name in limited}
    note = (
        "Each epoch of the search: what the drawn networks use as a share of each limit, and what "
        "the shared weights reach."
    )
    charts = [
        _chart("Share of each limit (1 is the limit)", shares, "{:.2f}", line=1.0),
        _chart("Accuracy while searching", {"training": _series(records, "accuracy")}, "{:.1%}"),
    ]
    return _section("Search", note, _tag("div", charts, class_="pair"))


def _training(metrics: Metrics) -> Html | None:
    records = [row for row in metrics if row.get("stage") in ("train", "quantize")]
    if not records:
        return None
    quantized = [i for i, row in enumerate(records, 1) if row["stage"] == "quantize"]
    span = (quantized[0] - 0.5, len(records)) if quantized else None
    accuracy = {
        "validation": _series(records, "validation_accuracy"),
        "training": _series(records, "accuracy"),
    }
    charts = [
        _chart("Accuracy", accuracy, "{:.1%}", span=span),
        _chart("Training loss", {"training": _series(records, "loss")}, "{:.3f}", span=span),
    ]
    note = "The found network, trained in float"
    note += "; shaded: continued with 8-bit weights and activations." if quantized else "."
    augmented = " Training examples are augmented, so they can be the harder ones."
    return _section("Training", note + augmented, _tag("div", charts, class_="pair"))


Points = list[tuple[int, float]]


def _series(records: Metrics, name: str) -> Points:
    values = [(i, row.get(name)) for i, row in enumerate(records, 1)]
    return [(i, v) for i, v in values if isinstance(v, int | float) and math.isfinite(v)]


_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 440, 210, 44, 34, 8  # pixels at a half page's width


def _chart(
    title: str,
    series: Mapping[str, Points],
    style: str,
    line: float | None = None,
    span: tuple[float, float] | None = None,
) -> Html | None:
    """Lines over epochs; ``line`` is a level to compare with, ``span`` epochs to shade."""
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points] + ([line] if line is not None else [])
    ticks = _ticks(min(ys), max(ys), 5)
    low, high, first, last = ticks[0], ticks[-1], min(xs), max(max(xs), min(xs) + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - first) / (last - first) * (_WIDTH - _LEFT - 6)
        return across, _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def rule(y: float, kind: str) -> Html:
        (x1, height), (x2, _) = at(first, y), at(last, y)
        ends = {"x1": f"{x1:.1f}", "x2": f"{x2:.1f}", "y1": f"{height:.1f}", "y2": f"{height:.1f}"}
        return _tag("line", class_=kind, **ends)

    def text(x: float, y: float, words: str, anchor: str) -> Html:
        return _tag("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)

    drawn, tick_style = [], "{:.0%}" if style.endswith("%}") else "{:.4g}"
    if span:
        (x1, top), (x2, bottom) = at(span[0], high), at(span[1], low)
        drawn.append(_tag("rect", x=f"{x1:.1f}", y=f"{top:.1f}", width=f"{x2 - x1:.1f}",
                          height=f"{bottom - top:.1f}", class_="span"))  # fmt: skip
    for y in ticks:
        height = at(first, y)[1]
        drawn += [rule(y, "grid"), text(_LEFT - 6, height + 4, tick_style.format(y), "end")]
    for x in _ticks(first, last, 6):
        if first <= x <= last and x == int(x):
            drawn.append(text(at(x, low)[0], _HEIGHT - _BOTTOM + 16, f"{x:.0f}", "middle"))
    drawn.append(text((_LEFT + _WIDTH) / 2, _HEIGHT - 3, "epoch", "middle"))
    if line is not None:
        drawn.append(rule(line, "at-one"))
    entries, said = [], []
    for i, (name, points) in enumerate(series.items()):
        kind = f"s{i % 4}"
        spots = [at(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        drawn.append(_tag("polyline", points=path, class_=f"line {kind}", style="fill:none"))
        x, y = spots[-1]
        drawn.append(_tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.6", class_=f"dot {kind}"))
        latest = style.format(points[-1][1]).replace("%", "\u00a0%")
        sample = _tag("svg", _tag("line", x1="0", x2="27", y1="5", y2="5", class_=f"line {kind}"),
                      viewBox="0 0 27 10", aria_hidden="true")  # fmt: skip
        entries.append(_tag("li", sample, f"{name} {latest}"))
        said.append(f"{name} from {style.format(points[0][1])} to {style.format(points[-1][1])}")
    drawing = _tag("svg", drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
                   aria_label=f"{title}: {'; '.join(said)}")  # fmt: skip
    return _tag("figure", _tag("h3", title), _tag("ul", entries, class_="key"), drawing)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers, the first at most ``low`` and the last at least ``high``."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 20, low + (abs(low) or 1) / 20
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _prediction(summary: Summary) -> Html | None:
    prediction = summary.get("prediction", {})
    titles = {
        "flash_bytes": "model file",
        "tflm_host_activation_bytes": "arena, tensors",
        "tflm_host_persistent_bytes": "arena, structures",
    }
    rows = []
    for name, row in prediction.items():
        predicted, measured = row.get("predicted"), row.get("measured")
        known = predicted is not None and bool(measured)
        off = f"{100 * (predicted / measured - 1):+.2f}\u00a0%" if known else "?"
        same = known and predicted == measured
        rows.append((
            titles.get(name, name), _show(predicted, _count), _show(measured, _count),
            "exact" if same else off,
        ))  # fmt: skip
    if not rows:
        return None
    note = (
        "Bytes foretold from the list of layers, and found: the exported file, and the arena of "
        "TensorFlow Lite Micro on this computer (64-bit, so its structures are larger)."
    )
    head = ("", "predicted", "measured", "off by")
    return _section("Predicted and measured", note, _table("Predicted and measured", head, rows, 1))


def _origin(summary: Summary) -> Html | None:
    data, seconds = summary.get("data", {}), summary.get("seconds", {})
    splits = [f"{_count(data[k])} {k}" for k in ("train", "validation", "test") if k in data]
    rows = [
        ("data", ", ".join([str(data.get("name", "?")), *splits]) if data else None),
        ("seed", summary.get("seed")),
        ("time", ", ".join(f"{name} {_time(s)}" for name, s in seconds.items()) or None),
        ("peak memory", f"{_count(summary['peak_memory_mb'])}\u00a0MB"
         if "peak_memory_mb" in summary else None),
    ]  # fmt: skip
    rows = [(name, value) for name, value in rows if value is not None]
    command = summary.get("command")
    shown = _tag("pre", _tag("code", command)) if command else None
    if not rows and not shown:
        return None
    table = _table("How it was made", ("", ""), rows, 2) if rows else None
    return _section("How it was made", None, shown, table)


def _files(files: Mapping[str, int], summary: Summary) -> Html | None:
    if not files:
        return None
    rows = [
        (_tag("code", name if name != "events.out.tfevents" else f"{name}.*"), FILES[name],
         _kib(files[name]))
        for name in FILES if name in files
    ]  # fmt: skip
    experiment = summary.get("experiment")
    usage = f"python -m experiments.{experiment} --predict FILE.wav --workdir RUN"
    return _section(
        "Files beside this page", None,
        _table("Files", ("file", "what it is", "size"), rows, 2),
        [
            _tag("p", "To classify a recording, with RUN the folder of this page:"),
            _tag("pre", _tag("code", usage)),
        ]
        if experiment and "model.tflite" in files
        else None,
    )  # fmt: skip
