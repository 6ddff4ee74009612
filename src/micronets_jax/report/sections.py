"""The parts of a run's page, each a function of the results that gives markup, or None.

Invariant: a part shows what is there; whatever is missing is left out, or shown as "?".
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from micronets_jax import cost, memory, network, targets
from micronets_jax.memory import Block, Step
from micronets_jax.network import INPUT, Network
from micronets_jax.report import markup
from micronets_jax.report.markup import Html, Number, tag

Summary = Mapping[str, Any]
Records = Sequence[Mapping[str, Any]]
Metrics = Records

FILES = {
    "model.tflite": "the int8 model, to be built into firmware or run on a desktop",
    "firmware": "the model as a program for the board: make, or micronets run, or micronets flash",
    "labels.txt": "names of the classes, in the order of the model's outputs",
    "frontend.json": "parameters of the front end that turns a file into the model's input",
    "listening.json": "how the spotter listens to a stream, and the curve by which that was chosen",
    "hardest.txt": "validation files that the network gets most wrong; check: it is sure of it",
    "samples.npz": "test inputs and the outputs expected for them, to check a device against",
    "network.json": "the found network, one layer a line; can be read back",
    "contest.json": "what the search proposed and how it did in short trainings, the best first",
    "weights": "trained weights and ranges, an Orbax checkpoint",
    "summary.json": "every number of this page",
    "examples.json": "the pictures of this page",
    "spaces.json": "what fits of each space that could be chosen",
    "proposals.json": "the networks that the search proposed, the most promising first",
    "metrics.jsonl": "one line for each epoch",
    "events.out.tfevents": "the same for TensorBoard",
    "config.json": "everything that decided this run",
    "checkpoints": "what --resume continues from; may be deleted",
}
"""What a results folder may hold, in the order of use."""


# ---------------------------------------------------------------- numbers


TIMES = "\u00d7"


def _kib(size: Number) -> str:
    if size < 1024:
        return f"{size:,.0f}\u00a0bytes"
    digits = 1 if size % 1024 else 0
    return f"{size / 1024:,.{digits}f}\u00a0KiB"


def _percent(share: Number, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\u00a0%"


def _count(number: Number) -> str:
    return f"{number:,.0f}"


def _shape(numbers: Sequence[int]) -> str:
    return TIMES.join(map(str, numbers))


def _time(seconds: Number) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min {rest}\u00a0s" if minutes else f"{rest}\u00a0s"


def _show(value: Any, style: Callable[[Any], str]) -> str:
    return "?" if value is None else style(value)


LIMITS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "sram_bytes": ("SRAM", _kib),
    "flash_bytes": ("Flash", _kib),
    "mops": ("Operations", lambda x: f"{x:,.2f}\u00a0million"),
    "latency_ms": ("Latency, estimated", lambda x: f"{x:,.0f}\u00a0ms"),
    "energy_mj": ("Energy, estimated", lambda x: f"{x:,.1f}\u00a0mJ"),
}
"""What may be limited: its title and how its values are written."""

METRICS = {"accuracy": "Accuracy", "auc": "Mean AUC", "r2": "R²"}
"""Titles of what a task may be judged by."""


def names(summary: Summary) -> list[str]:
    """What tells this run from others: experiment, preset, seed."""
    named = [summary.get("experiment"), summary.get("preset")]
    seed = [f"seed {summary['seed']}"] if "seed" in summary else []
    return [str(name) for name in named if name] + seed


# ---------------------------------------------------------------- what was found


def headline(summary: Summary) -> Html:
    """What was found, in one line, one sentence and six figures."""
    metric = summary.get("metric", "accuracy")
    score, device = summary.get(metric, {}), summary.get("device", {})
    limits, shape = summary.get("limits", {}), summary.get("network", {})
    board, best = device.get("name", "device"), score.get("int8", score.get("float"))
    named, shares = METRICS.get(metric, metric), metric == "accuracy"
    over = [LIMITS[n][0] if n in LIMITS else n for n, x in limits.items() if _share(x) > 1]
    verdict = f"fits the {board}" if limits else f"made for the {board}"
    if over:
        verdict = f"over the limits of the {board}: {', '.join(over)}"
    title = verdict
    if best is not None:
        praise = f"{_percent(best)} right" if shares else f"{named} {_percent(best)}"
        title = f"{praise}, {verdict}"
    data = summary.get("data", {})
    tested, number = data.get("test"), len(data.get("classes", ()))
    classes = f", {number} classes" if number else ""
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
        f"Measured on {_count(tested)} test examples of {data.get('name', 'the data set')}"
        f"{classes}. "
        if tested
        else "",
        f"The int8 model takes {', '.join(uses)}." if uses else "",
    ]
    examples = summary.get("tflm_examples")
    fewer = examples and tested and examples < tested and score.get("int8_there") is not None
    there = f"; int8 there {_percent(score['int8_there'], 2)}" if fewer else ""
    error = math.sqrt(best * (1 - best) / tested) if tested and shares and best else None
    notes = {
        "float": "as trained",
        "int8": f"± {_percent(error)} std. error" if error is not None else "the exported file",
        "tflm": f"on {_count(examples)} of them{there}" if examples else "on the host interpreter",
    }
    kinds = {"float": "float", "int8": "int8", "tflm": "TFLM"}
    tiles = [
        (f"{named}, {kind}", _percent(score[name], 2), notes[name])
        for name, kind in kinds.items()
        if score.get(name) is not None
    ]
    if "macs" in shape:
        tiles.append(("MACs", _count(shape["macs"]), "per inference"))
    if "weights" in shape:
        tiles.append(("Weights", _count(shape["weights"]), f"in {shape.get('layers', '?')} layers"))
    if summary.get("seconds"):
        tiles.append(("Made in", _time(sum(summary["seconds"].values())), "all stages"))
    return tag(
        "header",
        tag("p", " · ".join(["micronets_jax", *names(summary)]), class_="eyebrow"),
        tag("h1", title[0].upper() + title[1:]),
        tag("p", lead, class_="lead"),
        tag(
            "dl",
            [
                tag("div", tag("dt", name), tag("dd", value), tag("dd", sub))
                for name, value, sub in tiles
            ],
            class_="figures",
        ),
    )


def _share(row: Mapping[str, Any], key: str = "used") -> Number:
    return row[key] / row["limit"] if row.get(key) is not None and row.get("limit") else 0.0


def limits(summary: Summary) -> Html | None:
    """Each limit, what is used of it, and what the largest network would use."""
    limits = summary.get("limits", {})
    if not limits:
        return None
    shares = [max(1, _share(row), _share(row, "largest")) for row in limits.values()]
    end = min(max(shares), 6) * 1.02  # one scale for all, so that the limits are one line
    rows = []
    for name in [*(n for n in LIMITS if n in limits), *(n for n in limits if n not in LIMITS)]:
        row, (title, style) = limits[name], LIMITS.get(name, (name, lambda x: f"{x:,.4g}"))
        used, largest = _share(row), _share(row, "largest")
        percent = _percent(used, 0 if used >= 0.1 else 1)
        state = "over-text" if used > 1 else None
        compared = (
            f"largest network {largest:.{1 if largest >= 1 else 2}f}\u00a0{TIMES}"
            if largest
            else ""
        )
        scaled = [min(100.0, 100 * share / end) for share in (largest, used, 1)]
        bar = markup.bar(
            f"{title}: {percent} of the limit, {compared or 'largest network unknown'}",
            ("largest", 0, scaled[0], f"largest network: {_show(row.get('largest'), style)}"),
            ("used over" if used > 1 else "used", 0, scaled[1], None),
            ("limit", scaled[2], scaled[2], None),
        )
        text = f"{_show(row.get('used'), style)} of {_show(row.get('limit'), style)}"
        rows.append(
            tag(
                "li",
                tag("span", title),
                bar,
                tag("span", f"{text} ", tag("b", percent, class_=state), class_="end"),
                tag("span", compared, class_="end unit"),
            )
        )
    device = summary.get("device", {})
    board = [
        f"{device.get('name', 'The device')}: {str(device.get('core', '?')).title()} at "
        f"{device.get('clock_mhz', '?')} MHz, {_show(device.get('sram_bytes'), _kib)} of SRAM, "
        f"{_show(device.get('flash_bytes'), _kib)} of flash. "
        if device
        else "",
        f"SRAM is counted for the runtime {summary['runtime']}. " if "runtime" in summary else "",
        "Latency and energy are estimates from predicted instructions. "
        if limits.keys() & {"latency_ms", "energy_mj"}
        else "",
        "Limits on memory are on all that the firmware takes, the runtime's reserve included.",
    ]
    key = markup.key(("used", "found"), ("largest", "largest of the space"), ("limit", "limit"))
    return markup.section("Limits", board, key, markup.rows("limits", rows))


def confusion(summary: Summary) -> Html | None:
    """The confusion matrix with recall and precision, and the worst of it in words."""
    counts = summary.get("confusion")
    if not counts:
        return None
    size = len(counts)
    named = list(summary.get("data", {}).get("classes", ()))
    names = named if len(named) == size else [str(i) for i in range(size)]
    totals = [sum(row) for row in counts]
    columns = [sum(row[j] for row in counts) for j in range(size)]

    def rate(right: int, total: int, digits: int = 1) -> str:
        return f"{100 * right / total:.{digits}f}" if total else "?"

    def cell(i: int, j: int) -> Html:
        count = counts[i][j]
        kind = ("hit" if i == j else "miss") if count else "none"
        share = f"--share:{count / totals[i]:.3f}" if count else None
        tip = f"{names[i]} taken for {names[j]}: {count} of {totals[i]}"
        return tag("td", count, class_=kind, style=share, title=tip if kind == "miss" else None)

    head = [tag("th", tag("span", name), scope="col") for name in names]
    body = [
        tag(
            "tr",
            tag("th", names[i], scope="row"),
            [cell(i, j) for j in range(size)],
            tag("td", rate(counts[i][i], totals[i]), class_="rate"),
        )
        for i in range(size)
    ]
    precision = [tag("td", rate(counts[j][j], columns[j], 0)) for j in range(size)]
    overall = tag("td", rate(sum(counts[i][i] for i in range(size)), sum(totals)), class_="rate")
    foot = tag("tr", tag("th", "precision, %", scope="row"), precision, overall)
    corner, recall = tag("td", ""), tag("th", "recall, %", scope="col", class_="rate")
    matrix = tag(
        "table",
        tag("thead", tag("tr", corner, head, recall)),
        tag("tbody", body),
        tag("tfoot", foot),
        class_="matrix",
        aria_label="Confusion matrix",
    )
    wrong = sorted(
        ((counts[i][j], i, j) for i in range(size) for j in range(size) if i != j and counts[i][j]),
        key=lambda row: (-row[0], row[1:]),
    )
    listed = [
        tag("li", tag("b", names[i]), " taken for ", tag("b", names[j]), f": {n} of {totals[i]}")
        for n, i, j in wrong[:8]
    ]
    beside = tag("div", tag("h3", "Most frequent mistakes"), tag("ol", listed))
    note = "The int8 model on the test split: rows are true classes, columns what the model said."
    return markup.section(
        "Confusion matrix",
        note,
        tag(
            "div",
            markup.scroll("Confusion matrix", matrix),
            beside if wrong else None,
            class_="confusions",
        ),
    )


def data(summary: Summary, examples: Sequence[Mapping[str, str]]) -> Html | None:
    """What the data are: counts, remarks, examples, and what the network found hardest."""
    look = summary.get("look")
    if not look:
        return None
    classes = look["classes"]
    head = ["class" if classes else "", "train", "validation", "test"]
    heard = look["speakers"]
    if heard:
        head += ["speakers: train", "validation", "test"]
    body = [
        [name, *(_count(row[i]) for row in [*look["examples"], *heard])]
        for i, name in enumerate(classes or ["examples"])
    ]
    remarks = [
        tag("li", remark["text"], tag("p", ", ".join(remark["files"]), class_="note"))
        for remark in look["remarks"]
    ]
    hard = summary.get("hardest", ())
    rows = [
        [one["file"], one["label"], one["taken_for"],
         "sure of another class: check the label" if one["suspicious"] else "",
         f"{one['loss']:.2f}"]
        for one in hard
    ]  # fmt: skip
    shown = [
        tag(
            "figure",
            [markup.picture(one["png"], name) for one in group],
            tag("figcaption", name),
        )
        for name, group in itertools.groupby(examples, key=lambda one: one["class"])
    ]
    return markup.section(
        "Data",
        f"How many examples there are{' of each class' if classes else ''}, what is odd about "
        "them, and a few as the network sees them. Nothing was left out.",
        markup.table("Examples of each class" if classes else "Examples", head, body, 1),
        [tag("h3", "Worth a look"), tag("ul", remarks)] if remarks else None,
        tag("div", shown, class_="gallery") if shown else None,
        [
            tag("h3", "Hardest examples of the validation split"),
            markup.table("Hardest examples", ["file", "is", "taken for", "", "loss"], rows, 4),
        ]
        if rows
        else None,
    )


def machines(summary: Summary) -> Html | None:
    """Each machine's area under the ROC curve, and the curves."""
    rows = summary.get("machines", [])
    if not rows:
        return None
    classes = list(summary.get("data", {}).get("classes", ()))
    named = [classes[r["label"]] if r["label"] < len(classes) else str(r["label"]) for r in rows]
    partial = summary.get("pauc", {}).get("int8")
    means = (_percent(summary["auc"]["int8"], 2), "?" if partial is None else _percent(partial, 2))
    cells = [
        (name, _count(r["normal"]), _count(r["anomalous"]), *(_percent(r[k], 2) for k in AREAS))
        for name, r in zip(named, rows, strict=True)
    ]
    head = ("machine", "normal", "anomalous", *AREAS.values())
    table = markup.table("Machines", head, [*cells, ("mean", "", "", *means)], 1)
    curves = {
        name: [(fpr, tpr) for fpr, tpr in r["curve"]] for name, r in zip(named, rows, strict=True)
    }
    chart = markup.chart(
        "Failing recordings found", curves, "{:.0%}", across="sound recordings taken for failing"
    )
    again = summary.get("loss", {}).get("outputs") == "inputs"
    scored = (
        "of the mean squared error with which the network gives them back"
        if again
        else "of minus the share that its own machine gets"
    )
    note = (
        "The int8 model on the test recordings. A recording's score is the mean over its patches "
        f"{scored}; the area under the curve is the chance that a failing one scores higher than "
        "a sound one."
    )
    return markup.section("Machines", note, tag("div", tag("div", table), chart, class_="pair"))


AREAS = {"auc": "AUC", "pauc": "pAUC, first 10\u00a0%"}
"""Areas under the ROC curve: the whole, and its standardised beginning."""


def listening(summary: Summary) -> Html | None:
    """A spotter's false alarms against the words it misses, and what was chosen by that."""
    chosen = summary.get("listening", {})
    how, seen = chosen.get("settings"), chosen.get("validation")
    if not how or not seen:
        return None
    allowed = chosen.get("alarms_per_hour", 0)
    alarms, misses = seen["alarms"] / seen["hours"], 1 - seen["hits"] / max(1, seen["words"])
    one = 1 / seen["hours"]  # alarm in all of the streams; none is drawn as half of one
    curve = [(max(rate, one / 2), missed) for _, rate, missed in seen["curve"]]
    most = max(rate for rate, _ in curve)
    chart = markup.chart(
        "Words missed",
        {"by threshold": curve, "chosen": [(max(alarms, one / 2), misses)]},
        "{:.1%}",
        span=(max(allowed, one / 2), most) if 0 < allowed < most else None,
        across="false alarms an hour",
        decades=True,
    )
    pause = how["refractory"] * how["hop_ms"] / 1000
    rows = [
        ("an inference every", f"{how['hop_ms']}\u00a0ms"),
        ("posteriors averaged over", f"{how['window']} of them"),
        ("a word is detected from", _percent(how["threshold"] / (1 << 15))),
        ("then none for", f"{pause:g}\u00a0s"),
        ("words missed", _percent(misses)),
        ("false alarms an hour", f"{alarms:.3g}: {seen['alarms']} in all, {seen['confused']} of "
         "them just after a word" if seen["alarms"] else "0"),
    ]  # fmt: skip
    note = [
        f"Chosen on {60 * seen['hours']:.0f} minutes of validation clips among noises, in which "
        f"{_count(seen['words'])} words are said; {allowed:g} false alarms an hour are allowed, "
        "and more are shaded. ",
        "" if seen["met"] else "No threshold has so few: the fewest there are were taken. ",
        "A device does the same with the same numbers.",
    ]
    table = markup.table("Listening", ("", ""), rows, 2)
    return markup.section("Listening", note, tag("div", tag("div", table), chart, class_="pair"))


def widths(summary: Summary) -> Html | None:
    """Found widths beside the largest ones; removed blocks are empty."""
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
        rows.append(
            tag(
                "li",
                tag("span", row["name"]),
                markup.bar(None, *pieces),
                tag("span", text, class_="end"),
                class_=None if found else "removed",
            )
        )
    removed = sum(row.get("found") is None for row in widths)
    note = "Output channels of each convolution that had a choice, beside the largest in the space."
    left_out = f" Blocks removed: {removed}." if removed else ""
    return markup.section("Found widths", note + left_out, markup.rows("widths", rows))


def memory_over_time(summary: Summary, found: Network | None) -> Html | None:
    """Which tensors are alive, layer by layer, and where the planner puts them."""
    if found is None:
        return None
    name = summary.get("runtime", "compiled")
    made = summary.get("firmware", {})
    plan = made.get("plan") if made.get("runtime") == name else None
    steps = _steps(plan) if plan else targets.timeline(found, name)
    end = max(block.start + block.bytes for step in steps for block in step.live)
    held = [_held(step.live) for step in steps]
    peak = max(held)
    read = {operator.layer.name: operator.reads for operator in memory.operators(found)}
    if plan:
        read = {step.name: _read(read, plan["layers"], i) for i, step in enumerate(steps)}
    rows, seen = [], set()
    for i, step in enumerate(steps):
        pieces, spoken = [], []
        for block in sorted(step.live, key=lambda b: b.start):
            kind = "waits"
            if block.name.endswith(" scratch"):
                kind = "scratch"
            elif block.first == i and block.name != INPUT:
                kind = "makes"
            elif block.name in read[step.name]:
                kind = "reads"
            seen.add(kind)
            where = f"{_count(block.bytes)} bytes at {_count(block.start)}"
            spoken.append(f"{kind} {block.name}, {where}")
            place = (100 * block.start / end, 100 * (block.start + block.bytes) / end)
            pieces.append((kind, *place, spoken[-1]))
        for low, high in _shared(step.live):
            seen.add("shares")
            spoken.append(f"{_count(high - low)} bytes at {_count(low)} serve both")
            pieces.append(("shares", 100 * low / end, 100 * high / end, spoken[-1]))
        mark = "peak" if held[i] == peak else None
        rows.append(
            tag(
                "li",
                tag("span", step.name),
                markup.bar("; ".join(spoken), *pieces),
                tag("span", _kib(held[i]), class_="end"),
                class_=mark,
            )
        )
    note = f"What is alive while each layer runs, where it lies in the arena's {_kib(end)}."
    if plan:
        note += _streaming(plan)
    if plan and "ram_bytes" in made:
        ram = made["ram_bytes"]["linked"] or made["ram_bytes"]["predicted"]
        note += f"The firmware takes {_kib(ram)} of RAM in all."
    elif name in targets.TARGETS and not plan:
        needed = targets.target(name).sram(found)
        note += f" With {_kib(needed - end)} of the runtime's own: {_kib(needed)} of SRAM."
    texts = {
        "reads": "read",
        "makes": "made",
        "shares": "read, then made",
        "waits": "kept for later",
        "scratch": "scratch",
    }
    key = markup.key(*((kind, text) for kind, text in texts.items() if kind in seen))
    return markup.section("Memory over time", note, key, markup.rows("memory", rows))


def _steps(plan: Mapping[str, Any]) -> list[Step]:
    """Of a program's plan: layers on whole tensors, and those that go row by row together."""
    blocks = [
        Block(
            re.sub(r"^scratch of (.*)", r"\1 scratch", row["name"]),
            row["offset"],
            row["bytes"],
            row["first_step"],
            row["last_step"],
        )
        for row in plan["memory"]
    ]
    named: dict[int, list[str]] = {}
    for layer in plan["layers"]:
        named.setdefault(layer["step"], []).append(layer["name"])
    return [
        Step(
            names[0] if names[0] == names[-1] else f"{names[0]} to {names[-1]}",
            "rows" if len(names) > 1 else "",
            tuple(b for b in blocks if b.first <= i <= b.last),
        )
        for i, names in sorted(named.items())
    ]


def _read(
    reads: Mapping[str, Sequence[str]], layers: Sequence[Mapping[str, Any]], turn: int
) -> list[str]:
    """Tensors that a step of a plan reads."""
    inside = [layer["name"] for layer in layers if layer["step"] == turn]
    return [name for layer in inside for name in reads.get(layer, ())]


def _streaming(plan: Mapping[str, Any]) -> str:
    """What the plan is, beside the fastest, in words."""
    names = {layer["name"]: layer["rows"] for layer in plan["layers"]}
    arena, fast = plan["front"][-1]
    more = plan["instructions"] / fast - 1
    text = f" {sum(names.values())} of {len(names)} layers go row by row"
    if arena > plan["arena_bytes"]:
        text += f"; the fastest plan takes {_kib(arena)} and {_percent(more)} fewer instructions"
    return text + ". "


def _held(live: Sequence[Block]) -> int:
    """Bytes of the arena that blocks hold; those that two hold are counted once."""
    total = reached = 0
    for start, end in sorted((b.start, b.start + b.bytes) for b in live):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _shared(live: Sequence[Block]) -> list[tuple[int, int]]:
    """Stretches of the arena that two blocks hold at the same time."""
    ends = [(b.start, b.start + b.bytes) for b in live]
    pairs = itertools.combinations(sorted(ends), 2)
    return [(b[0], min(a[1], b[1])) for a, b in pairs if b[0] < a[1]]


def layers(found: Network | None) -> Html | None:
    """The found network, one layer a row."""
    if found is None:
        return None
    sizes = network.output_sizes(found)
    macs = {x.name: math.prod(sizes[x.name]) * cost.kernel_elements(x) for x in found}
    share = {name: 100 * count / max(1, *macs.values()) for name, count in macs.items()}
    rows = [
        (
            layer.name,
            layer.kind.replace("_", " "),
            _shape(layer.kernel),
            _shape(layer.stride),
            layer.activation,
            _shape((*sizes[layer.name], layer.out_channels)),
            _count(cost.kernel_elements(layer)),
            _count(macs[layer.name]),
            tag("div", markup.bar(None, ("used", 0, share[layer.name], None)), class_="share"),
        )
        for layer in found
    ]
    head = ("layer", "kind", "kernel", "stride", "activation", "output", "weights", "MACs", "")
    note = f"Input {_shape(found.input_shape)}; outputs are rows {TIMES} columns {TIMES} channels."
    return markup.section("Layers", note, markup.table("Layers", head, rows, 6))


# ---------------------------------------------------------------- how it came about


def search(summary: Summary, metrics: Metrics) -> Html | None:
    """Cost and accuracy, or the loss where there is none, along the search."""
    records = [row for row in metrics if row.get("stage") == "search"]
    if not records:
        return None
    limited = [name for name in LIMITS if any(name in row for row in records)]
    shares = {LIMITS[name][0]: markup.series(records, name) for name in limited}
    note = (
        "Each epoch of the search: what the drawn networks use as a share of each limit, and what "
        "the shared weights reach."
    )
    charts = [
        markup.chart("Share of each limit (1 is the limit)", shares, "{:.2f}", line=1.0),
        markup.chart(
            "Accuracy while searching", {"training": markup.series(records, "accuracy")}, "{:.1%}"
        )
        or markup.chart(
            "Loss while searching", {"training": markup.series(records, "loss")}, "{:.3f}"
        ),
    ]
    return markup.section("Search", note, tag("div", charts, class_="pair"))


def contest(trials: Records) -> Html | None:
    """What the search proposed, and how each did in a short training."""
    if not trials:
        return None
    rows = [
        (
            trial["proposal"],
            " ".join(map(str, trial["widths"])),
            *(f"{trial['usage'][name]:.1%}" for name in trials[0]["usage"]),
            f"{trial['held_out_loss']:.3f}",
        )
        for trial in trials
    ]
    shares = [f"{LIMITS[name][0]}, share" for name in trials[0]["usage"]]
    head = ("proposal", "channels of its convolutions", *shares, "held-out loss")
    note = (
        "What the search proposed that fits, each trained alike from scratch for a short time: the "
        "first one was built."
    )
    return markup.section("Contest", note, markup.table("Contest", head, rows, 2))


def spaces(records: Records) -> Html | None:
    """Which space was chosen, and by what: the operations of members that fit."""
    if not records:
        return None
    named = [row for row in records if row["fit"]][:8]
    rows = [
        (
            f"{row['space']}, chosen" if row["chosen"] else row["space"],
            _percent(row["fit"], 0),
            f"{row['mean_mops']:.2f}",
            f"{row['mops'][16]:.2f}",
        )
        for row in named
    ]
    note = (
        "Members of each space were drawn and planned exactly. Of the spaces of which enough fit, "
        "the one is chosen whose fitting members have most operations on average: w is the "
        "width, r the side of the picture."
    )
    lines = {row["space"]: list(zip(TWENTIETHS, row["mops"], strict=True)) for row in named}
    return markup.section(
        "Space",
        note,
        tag(
            "div",
            markup.table("Spaces", ("space", "fit", "mean Mops", "top fifth above"), rows, 1),
            markup.chart(
                "Million operations of members that fit",
                lines,
                "{:.2f}",
                across="share of members with fewer",
            ),
            class_="pair",
        ),
    )


TWENTIETHS = [i / 20 for i in range(21)]


def proposals(records: Records) -> Html | None:
    """What the search proposed; where it judged, which of it nothing cheaper beats."""
    judged = sorted((row for row in records if row["held_out_loss"] is not None), key=_cost)
    if not judged:
        return None
    front: list[Mapping[str, Any]] = []
    for row in judged:
        if not front or row["held_out_loss"] < front[-1]["held_out_loss"]:
            front.append(row)
    most = max(row["mops"] for row in judged)
    points = [(row["mops"] / most, row["held_out_loss"]) for row in front]
    rows = [
        (row["proposal"], f"{row['mops']:.2f}", f"{row['held_out_loss']:.3f}")
        for row in reversed(front)
    ]
    note = (
        f"Of {len(judged)} members of the last generation, judged by the weights they share, those "
        "that no member with fewer operations beats. The chosen network is the best of all."
    )
    return markup.section(
        "Population",
        note,
        tag(
            "div",
            markup.table("Front", ("member", "Mops", "held-out loss"), rows, 1),
            markup.chart(
                "Held-out loss along the front",
                {"front": points},
                "{:.3f}",
                across=f"operations, 100% is {most:.2f} million",
            ),
            class_="pair",
        ),
    )


def _cost(row: Mapping[str, Any]) -> tuple[Number, Number]:
    return row["mops"], row["held_out_loss"]


def training(summary: Summary, metrics: Metrics) -> Html | None:
    """Accuracy, or the validation loss where there is none, and loss while the found network
    learns; and whether its 8-bit weights were trained on or only rounded."""
    records = [row for row in metrics if row.get("stage") in ("train", "quantize")]
    if not records:
        return None
    quantized = [i for i, row in enumerate(records, 1) if row["stage"] == "quantize"]
    span = (quantized[0] - 0.5, len(records)) if quantized else None
    accuracy = {
        "validation": markup.series(records, "validation_accuracy"),
        "training": markup.series(records, "accuracy"),
    }
    charts = [
        markup.chart("Accuracy", accuracy, "{:.1%}", span=span)
        or markup.chart(
            "Validation loss",
            {"validation": markup.series(records, "validation_loss")},
            "{:.3f}",
            span=span,
        ),
        markup.chart(
            "Training loss", {"training": markup.series(records, "loss")}, "{:.3f}", span=span
        ),
    ]
    note = "The found network, trained in float"
    note += "; shaded: continued with 8-bit weights and activations." if quantized else "."
    if rounding := summary.get("quantization"):
        losses = rounding["validation_loss"]
        kept = "rounded weights" if rounding["kept"] == "rounded" else "weights trained on"
        note += (
            f" The {kept} are kept: validation loss {losses['rounded']:.3f} rounded,"
            f" {losses['trained']:.3f} trained on."
        )
    augmented = " Training examples are augmented, so they can be the harder ones."
    return markup.section("Training", note + augmented, tag("div", charts, class_="pair"))


def prediction(summary: Summary) -> Html | None:
    """Instructions and bytes predicted from the layers alone beside what was measured."""
    prediction = summary.get("prediction", {})
    titles = {
        "instructions": "instructions",
        "flash_bytes": "model file",
        "tflm_host_activation_bytes": "arena, tensors",
        "tflm_host_persistent_bytes": "arena, structures",
    }
    rows = []
    for name, row in prediction.items():
        predicted, measured = row.get("predicted"), row.get("measured")
        known = predicted is not None and bool(measured)
        off = "?"
        if known:
            percent = f"{100 * (predicted / measured - 1):+.2f}\u00a0%".replace("-", "\u2212")
            off = "exact" if predicted == measured else percent
        figures = (_show(predicted, _count), _show(measured, _count), off)
        rows.append((titles.get(name, name), *figures))
    if not rows:
        return None
    note = (
        "Foretold from the list of layers, and found: instructions of the board's core, emulated; "
        "bytes of the exported file, and of the arena of TensorFlow Lite Micro on this computer "
        "(64-bit, so its structures are larger)."
    )
    head = ("", "predicted", "measured", "off by")
    return markup.section(
        "Predicted and measured", note, markup.table("Predicted and measured", head, rows, 1)
    )


def firmware(summary: Summary) -> Html | None:
    """The program for the board: what was predicted of it, and what was linked and emulated."""
    facts = summary.get("firmware", {})
    heard = facts.get("listening", {})
    kinds = (
        ("flash_bytes", "flash, bytes", "linked", _count),
        ("ram_bytes", "RAM, bytes", "linked", _count),
        ("instructions", "instructions", "emulated", _count),
        ("latency_ms", "latency, ms (an estimate)", "emulated", lambda x: f"{x:,.1f}"),
    )
    rows = []
    for name, title, found, style in kinds:
        row = facts.get(name, {})
        if row.get("predicted") is None:
            continue
        predicted, measured = row["predicted"], row.get(found)
        off = "?"
        if measured:
            percent = f"{100 * (predicted / measured - 1):+.2f}\u00a0%".replace("-", "\u2212")
            off = "exact" if predicted == measured else percent
        rows.append((title, _show(predicted, style), _show(measured, style), off))
    if not rows:
        return None
    note = [
        f"The folder {facts.get('folder', '?')}: runtime {facts.get('runtime', '?')} for the "
        f"{facts.get('device', '?')}, {facts.get('provenance', 'never run on silicon')}. ",
        f"Linking {facts['linking']}. " if "linking" in facts else "",
        f"A stream of sound takes {_count(heard['instructions_per_second'])} instructions a "
        f"second, {_percent(heard['core_share'])} of the core (an estimate). "
        if heard.keys() >= {"instructions_per_second", "core_share"}
        else "",
        f"It fails: {facts['error']}." if "error" in facts else "",
    ]
    head = ("", "predicted", "linked, emulated", "off by")
    return markup.section("Firmware", note, markup.table("Firmware", head, rows, 1))


def origin(summary: Summary) -> Html | None:
    """Command, data, seed, time: how to make this run again."""
    data, seconds = summary.get("data", {}), summary.get("seconds", {})
    splits = [f"{_count(data[k])} {k}" for k in ("train", "validation", "test") if k in data]
    rows = [
        ("data", ", ".join([str(data.get("name", "?")), *splits]) if data else None),
        ("seed", summary.get("seed")),
        ("time", ", ".join(f"{name} {_time(s)}" for name, s in seconds.items()) or None),
        (
            "peak memory",
            f"{_count(summary['peak_memory_mb'])}\u00a0MB" if "peak_memory_mb" in summary else None,
        ),
    ]
    rows = [(name, value) for name, value in rows if value is not None]
    command = summary.get("command")
    shown = markup.command(command) if command else None
    if not rows and not shown:
        return None
    table = markup.table("How it was made", ("", ""), rows, 2) if rows else None
    return markup.section("How it was made", None, shown, table)


def files(files: Mapping[str, int], summary: Summary) -> Html | None:
    """The files of the folder and how to use them."""
    if not files:
        return None
    rows = [
        (
            tag("code", name if name != "events.out.tfevents" else f"{name}.*"),
            _kib(files[name]),
            FILES[name],
        )
        for name in FILES
        if name in files
    ]
    experiment = summary.get("experiment")
    usage = f"python -m experiments.{experiment} --predict FILE --workdir RUN"
    return markup.section(
        "Files beside this page",
        None,
        markup.table("Files", ("file", "size", "what it is"), rows, 3),
        [
            tag("p", "To classify a file, with RUN the folder of this page:"),
            markup.command(usage),
        ]
        if experiment and "model.tflite" in files
        else None,
    )
