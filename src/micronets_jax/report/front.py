"""A front's results as one page: networks for several limits, found by one search.

Invariant: the page shows what the networks' own summaries say; nothing is computed anew.
"""

from __future__ import annotations

import html
import string
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from micronets_jax.report import markup, sections
from micronets_jax.report.markup import Html, Number, tag
from micronets_jax.report.sections import LIMITS, METRICS, Records, Summary

Costs = dict[str, Number]
"""What a network costs, by names of :data:`sections.LIMITS`."""


def render(said: Mapping[str, Any], summaries: Mapping[str, Summary], metrics: Records = ()) -> str:
    """The page's text.

    Args:
        said: what ``front.json`` says.
        summaries: what each network's ``summary.json`` says, by its name.
        metrics: what ``metrics.jsonl`` says of the search.
    """
    parts = [
        _headline(said, summaries),
        _charts(summaries),
        _table(summaries),
        _published(said),
        _search(list(summaries), metrics),
        sections.origin(said),
    ]
    template = resources.files("micronets_jax.report").joinpath("page.html.template").read_text()
    title = html.escape(" · ".join(["micronets_jax", *sections.names(said), "front"]))
    return string.Template(template).substitute(title=title, body=markup.join(parts))


def costs(summary: Summary) -> Costs:
    """What the network of a run uses, whether it was limited or not."""
    used = {name: row["used"] for name, row in summary["limits"].items()}
    used["mops"] = 2e-6 * summary["network"]["macs"]
    latency = summary["latency"]
    for name, key in (("latency_ms", "predicted_ms"), ("energy_mj", "predicted_mj")):
        if latency.get(key) is not None:
            used[name] = latency[key]
    return {name: used[name] for name in LIMITS if name in used}


def score(summary: Summary) -> Number:
    """The headline of the network in eight bits."""
    return summary[summary["metric"]]["int8"]


def _title(summary: Summary) -> str:
    metric = str(summary["metric"])
    return METRICS.get(metric, metric)


def _headline(said: Mapping[str, Any], summaries: Mapping[str, Summary]) -> Html:
    scores = [score(summary) for summary in summaries.values()]
    kind = _title(next(iter(summaries.values())))
    return tag(
        "header",
        tag("p", " · ".join(["micronets_jax", *sections.names(said), "front"]), class_="eyebrow"),
        tag("h1", f"{len(summaries)} networks from one search"),
        tag(
            "p",
            f"{kind} from {min(scores):.1%} to {max(scores):.1%} in eight bits on test examples. "
            "Search and contest were shared; each network has a folder of its own.",
            class_="lead",
        ),
    )


def _charts(summaries: Mapping[str, Summary]) -> Html | None:
    """Score against each cost in which the networks differ."""
    rows = [(costs(summary), score(summary)) for summary in summaries.values()]
    title = _title(next(iter(summaries.values())))
    charts = []
    for name, (cost, style) in LIMITS.items():
        points = sorted((used[name], reached) for used, reached in rows if name in used)
        if len(points) < len(rows) or points[0][0] == points[-1][0]:
            continue
        most = points[-1][0]
        shares = [(used / most, reached) for used, reached in points]
        charts.append(
            markup.chart(
                f"{title} by {cost}",
                {"int8": shares},
                "{:.1%}",
                across=f"{cost}, 100% is {style(most)}",
                dots=shares,
            )
        )
    if not charts:
        return None
    note = "Scores of the int8 models on test examples against what each network uses."
    return markup.section("Front", note, tag("div", charts, class_="pair"))


def _cells(used: Costs, names: Sequence[str]) -> list[str]:
    return [LIMITS[name][1](used[name]) if name in used else "" for name in names]


def _table(summaries: Mapping[str, Summary]) -> Html:
    counted = {name: costs(summary) for name, summary in summaries.items()}
    shown = [name for name in LIMITS if any(name in used for used in counted.values())]
    head = ["network", "board", "float", "int8", *(LIMITS[name][0] for name in shown)]
    rows = []
    for name, summary in summaries.items():
        place = urllib.parse.quote(f"{name}/report.html")
        reached = summary[summary["metric"]]
        rows.append(
            [
                tag("a", name, href=place),
                summary["device"]["name"],
                f"{reached['float']:.1%}",
                f"{reached['int8']:.1%}",
                *_cells(counted[name], shown),
            ]
        )
    note = "Memory is all that the firmware takes; latency and energy are estimates."
    return markup.section("Networks", note, markup.table("Networks", head, rows, 2))


def _published(said: Mapping[str, Any]) -> Html | None:
    rows = said.get("published", ())
    if not rows:
        return None
    shown = [name for name in LIMITS if all(name in row["used"] for row in rows)]
    style: Callable[[Number], str] = "{:.1%}".format
    cells = [[row["name"], style(row["score"]), *_cells(row["used"], shown)] for row in rows]
    head = ["network", "score", *(LIMITS[name][0] for name in shown)]
    note = (
        "Of the same task. Scores are the paper's (Banbury et al., MLSys 2021), on its data and "
        f"not on {said['data']['name']}; costs are counted as above, with the paper's classes, on "
        f"the {rows[0]['device']}."
    )
    return markup.section(
        "Published networks", note, markup.table("Published networks", head, cells, 1)
    )


def _search(names: Sequence[str], metrics: Records) -> Html | None:
    """Accuracy, or the loss where there is none, along the search, and for each limit what each
    network's drawn members use."""
    records = [row for row in metrics if row.get("stage") == "search"]
    if not records:
        return None
    charts = [
        markup.chart(
            "Accuracy while searching", {"training": markup.series(records, "accuracy")}, "{:.1%}"
        )
        or markup.chart(
            "Loss while searching", {"training": markup.series(records, "loss")}, "{:.3f}"
        )
    ]
    for limit, (title, _) in LIMITS.items():
        shares = {
            name: markup.series(records, f"{limit} {number}")
            for number, name in enumerate(names, 1)
        }
        charts.append(markup.chart(f"{title}, share of the limit", shares, "{:.2f}", line=1.0))
    note = (
        "Each epoch of the search: what the shared weights reach, and what the drawn networks use "
        "of their own limits."
    )
    return markup.section("Search", note, tag("div", charts, class_="pair"))
