"""A sweep's results as one page: the trials, the Pareto front, the curves.

Invariant: choices, marks and orders are by validation scores; test scores are only shown.
"""

from __future__ import annotations

import html
import itertools
import math
import statistics
import string
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from micronets_jax import files
from micronets_jax.report import markup
from micronets_jax.report.markup import Html
from micronets_jax.report.sections import LIMITS, METRICS

Row = Mapping[str, Any]

COSTS = {"macs": ("MACs", lambda x: f"{x:,.0f}")} | {
    name: (title, style) for name, (title, style) in LIMITS.items() if name != "mops"
}
"""What accuracy is drawn against: its title and how its values are written."""

SHOWN = 8
"""Trials whose curves are drawn, as many as lines can be told apart."""


def render(said: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The page's text.

    Args:
        said: what ``sweep.json`` says.
        rows: what ``micronets_jax.sweep.rows`` gives.
    """
    name = said["experiment"].rpartition(".")[2]
    options = list(next(iter(said["trials"].values()), {}))
    ranked = sorted(rows, key=_rank)
    fronts = {cost: _front(ranked, cost) for cost in COSTS}
    parts = [
        _headline(name, said, ranked),
        _front_section(ranked, fronts),
        _means(ranked, options),
        _table(ranked, options, fronts),
        _curves(ranked),
    ]
    template = resources.files("micronets_jax.report").joinpath("page.html.template").read_text()
    title = html.escape(f"micronets_jax · {name} · sweep")
    return string.Template(template).substitute(title=title, body=markup.join(parts))


def _rank(row: Row) -> tuple[bool, float]:
    score = files.score(row)
    return row["status"] != "finished", math.inf if score is None else -score


def _validated(rows: Sequence[Row]) -> tuple[str, str, str]:
    """By what trials are ranked: its name in their rows, its title, how its values are written."""
    if any("validation_loss" in row for row in rows):
        return "validation_loss", "Validation loss", "{:.4g}"
    return "validation_accuracy", "Validation accuracy", "{:.1%}"


def _finished(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "finished"]


def _headline(name: str, said: Mapping[str, Any], rows: Sequence[Row]) -> Html:
    counts = Counter(row["status"] for row in rows)
    best = next(iter(_finished(rows)), None)
    title = f"{len(rows)} trials, {counts['finished']} finished"
    lead = None
    if best is not None:
        metric = METRICS.get(best["metric"], best["metric"])
        lead = (
            f"The best on validation examples is {best['trial']}: {metric} {best['int8']:.1%} in "
            "eight bits on test examples."
        )
    words = " ".join(["python -m", said["experiment"], *said["words"]])
    return markup.tag(
        "header",
        markup.tag("p", f"micronets_jax · {name} · sweep", class_="eyebrow"),
        markup.tag("h1", title),
        markup.tag("p", lead, class_="lead") if lead else None,
        markup.tag("p", "All trials begin with", class_="note"),
        markup.command(words),
    )


def _front(rows: Sequence[Row], cost: str) -> list[Row]:
    """Finished trials that no cheaper one reaches on validation examples, cheapest first."""
    judged = [
        row for row in _finished(rows) if row.get(cost) is not None and files.score(row) is not None
    ]
    front: list[Row] = []
    for row in sorted(judged, key=lambda row: (row[cost], -_scored(row))):
        if not front or _scored(row) > _scored(front[-1]):
            front.append(row)
    return front


def _scored(row: Row) -> float:
    score = files.score(row)
    return -math.inf if score is None else score


def _front_section(rows: Sequence[Row], fronts: Mapping[str, Sequence[Row]]) -> Html | None:
    charts, (name, validated, written) = [], _validated(rows)
    for cost, front in fronts.items():
        judged = [row for row in _finished(rows) if row.get(cost) and name in row]
        if len(judged) < 2:
            continue
        title, style = COSTS[cost]
        most = max(row[cost] for row in judged)

        def points(some: Sequence[Row], cost: str = cost, most: float = most) -> markup.Points:
            return [(row[cost] / most, row[name]) for row in some]

        charts.append(
            markup.chart(
                f"{validated} by {title}",
                {"front": points(front)},
                written,
                across=f"{title}, 100% is {style(most)}",
                dots=points(judged),
            )
        )
    if not charts:
        return None
    note = "Each dot is a finished trial; the line joins those that no cheaper one reaches."
    pairs = [markup.tag("div", charts[i : i + 2], class_="pair") for i in range(0, len(charts), 2)]
    return markup.section("Front", note, pairs)


def _means(rows: Sequence[Row], options: Sequence[str]) -> Html | None:
    """Trials that differ in their seed alone, joined."""
    others = [option for option in options if option != "seed"]
    if "seed" not in options or not others:
        return None

    def key(row: Row) -> tuple[str, ...]:
        return tuple(str(row[option]) for option in others)

    groups = itertools.groupby(sorted(_finished(rows), key=key), key)
    cells = []
    for values, group in groups:
        scores = [row["int8"] for row in group]
        error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None
        spread = "" if error is None else f"±\u00a0{100 * error:.1f}\u00a0%"
        cells.append((" ".join(values), len(scores), f"{statistics.mean(scores):.1%}", spread))
    if not any(count > 1 for _, count, *_ in cells):
        return None
    head = (" ".join(others), "seeds", "int8, mean", "standard error")
    note = "Test scores of the int8 model, over seeds."
    return markup.section("Over seeds", note, markup.table("Over seeds", head, cells, 1))


def _table(
    rows: Sequence[Row], options: Sequence[str], fronts: Mapping[str, Sequence[Row]]
) -> Html:
    used = [cost for cost in COSTS if any(row.get(cost) is not None for row in rows)]
    head = ["trial", "ended", *options, "validation", "float", "int8"]
    head += [COSTS[cost][0] for cost in used] + ["on the front of", "s"]
    cells, (validated, _, written) = [], _validated(rows)
    for row in rows:
        costs = ["" if row.get(c) is None else COSTS[c][1](row[c]) for c in used]
        on = [COSTS[cost][0] for cost, front in fronts.items() if row in front]
        seconds = row.get("seconds")
        cells.append(
            [
                _link(row),
                f"{row['status']}: {row['said']}" if row["said"] else row["status"],
                *(_text(row.get(option)) for option in options),
                "" if row.get(validated) is None else written.format(row[validated]),
                *(_share(row.get(name)) for name in ("float", "int8")),
                *costs,
                ", ".join(on),
                "" if seconds is None else f"{seconds:.0f}",
            ]
        )
    note = "The best on validation examples first; float and int8 are scores on test examples."
    return markup.section("Trials", note, markup.table("Trials", head, cells, 2))


def _link(row: Row) -> str:
    if row["status"] != "finished":
        return row["trial"]
    place = urllib.parse.quote(f"trials/{row['trial']}/report.html")
    return markup.tag("a", row["trial"], href=place)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _curves(rows: Sequence[Row]) -> Html | None:
    charts, (validated, titled, written) = [], _validated(rows)
    searching = ("accuracy", "Accuracy") if validated == "validation_accuracy" else ("loss", "Loss")
    for stage, name, title in (
        ("search", searching[0], f"{searching[1]} while searching"),
        ("train", validated, f"{titled} while training"),
    ):
        lines = {
            row["trial"]: markup.series([r for r in row["epochs"] if r["stage"] == stage], name)
            for row in rows[:SHOWN]
        }
        charts.append(markup.chart(title, lines, written))
    if not any(charts):
        return None
    note = f"The first {SHOWN} trials of the table." if len(rows) > SHOWN else None
    return markup.section("Curves", note, markup.tag("div", charts, class_="pair"))
