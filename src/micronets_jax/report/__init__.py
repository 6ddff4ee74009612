"""A run's results as one page: ``report.html``; those of a front, and of a sweep, likewise.

Invariant: the page is one file that loads nothing and runs nothing, the same bytes for the same
results, and every text in it is escaped where it enters (``markup``).

Figures are HTML bars and small SVG drawings rather than rendered plots: they follow the reader's
light or dark theme, keep their text readable on a phone, and a screen reader finds numbers in them.
"""

from __future__ import annotations

import html
import json
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from micronets_jax import files, network
from micronets_jax.files import METRICS, SUMMARY
from micronets_jax.network import Network
from micronets_jax.report import front, markup, sections
from micronets_jax.report.sections import Metrics, Records, Summary

NETWORK = "network.json"
SPACES, PROPOSALS, CONTEST = "spaces.json", "proposals.json", "contest.json"
EXAMPLES, REPORT = "examples.json", "report.html"
FRONT = "front.json"
"""What tells a folder of several networks, each in a folder of its own, from that of one."""


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Write ``report.html`` into a results folder, whole or not at all; returns its path.

    Only ``summary.json`` must be there; what else is missing is left out of the page.

    Raises:
        ValueError: ``summary.json`` is missing, or a file is damaged; the message names it.
    """
    if not (workdir / SUMMARY).is_file():
        raise ValueError(f"workdir={workdir} has no {SUMMARY}: let the run finish (--resume) first")
    summary = _parse(workdir / SUMMARY, json.loads)
    found = _parse(workdir / NETWORK, network.from_json)
    metrics = _parse(workdir / METRICS, _lines)
    trials, spaces, proposals, examples = (
        _parse(workdir / name, json.loads) or () for name in (CONTEST, SPACES, PROPOSALS, EXAMPLES)
    )
    page = render(
        summary, found, metrics or (), _sizes(workdir), trials, spaces, proposals, examples
    )
    return files.write(workdir / REPORT, page)


def write_front(workdir: pathlib.Path) -> pathlib.Path:
    """Write ``report.html`` into the folder of a front, whole or not at all; returns its path.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    said, summaries = read_front(workdir)
    page = front.render(said, summaries, _parse(workdir / METRICS, _lines) or ())
    return files.write(workdir / REPORT, page)


def read_front(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, Summary]]:
    """What ``front.json`` says, and the summary of each network by its name.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    said = _parse(workdir / FRONT, json.loads)
    summaries = {name: _parse(workdir / name / SUMMARY, json.loads) for name in said["networks"]}
    missing = [name for name, summary in summaries.items() if summary is None]
    if missing:
        raise ValueError(
            f"{workdir / missing[0]} has no {SUMMARY}: let the run finish (--resume) first"
        )
    return said, summaries


def render(
    summary: Summary,
    found: Network | None = None,
    metrics: Metrics = (),
    files: Mapping[str, int] | None = None,
    trials: Records = (),
    spaces: Records = (),
    proposals: Records = (),
    examples: Sequence[Mapping[str, str]] = (),
) -> str:
    """The page of a run.

    Args:
        summary: what ``summary.json`` says; any of its keys may be missing.
        found: the network, decided.
        metrics: what ``metrics.jsonl`` says, in the order of time.
        files: bytes of each file or folder of :data:`sections.FILES` that is there.
        trials: what ``contest.json`` says, the best first.
        spaces: what ``spaces.json`` says of those among which one was chosen.
        proposals: what ``proposals.json`` says of the networks that the search proposed.
        examples: what ``examples.json`` says: class and PNG of a few examples.

    Returns:
        HTML, one file that loads no other.
    """
    parts = [
        sections.headline(summary),
        sections.limits(summary),
        sections.confusion(summary),
        sections.machines(summary),
        sections.listening(summary),
        sections.data(summary, examples),
        markup.tag(
            "div",
            sections.widths(summary),
            sections.memory_over_time(summary, found),
            class_="pair",
        ),
        sections.spaces(spaces),
        sections.search(summary, metrics),
        sections.proposals(proposals),
        sections.contest(trials),
        sections.training(summary, metrics),
        sections.layers(found),
        markup.tag("div", sections.prediction(summary), sections.origin(summary), class_="pair"),
        sections.firmware(summary),
        sections.files(files or {}, summary),
    ]
    template = resources.files("micronets_jax.report").joinpath("page.html.template").read_text()
    title = " · ".join(["micronets_jax", *sections.names(summary)])
    return string.Template(template).substitute(title=html.escape(title), body=markup.join(parts))


# ---------------------------------------------------------------- reading


def _parse(path: pathlib.Path, parser: Callable[[str], Any]) -> Any:
    if not path.is_file():
        return None
    try:
        return parser(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); run again with --resume") from error


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _sizes(workdir: pathlib.Path) -> dict[str, int]:
    sizes = {}
    for name in sections.FILES:
        found = sorted(workdir.glob(f"{name}*" if name.startswith("events") else name))
        inside = [q for p in found for q in ([p] if p.is_file() else sorted(p.rglob("*")))]
        if found:
            sizes[name] = sum(q.stat().st_size for q in inside if q.is_file())
    return sizes
