import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import memory, network, report, targets
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.report import markup, sections

NET = Network(
    (4, 4, 1),
    (
        Layer("stem", "conv", (INPUT,), 1, 8, (3, 3), activation="relu"),
        Layer("pool", "avg_pool", ("stem",), 8, 8, (4, 4), (4, 4), "VALID"),
        Layer("flatten", "reshape", ("pool",), 8, 8),
        Layer("logits", "dense", ("flatten",), 8, 2),
    ),
)

SUMMARY = {
    "experiment": "kws",
    "preset": "tiny",
    "seed": 3,
    "command": "python -m experiments.kws --seed 3",
    "data": {
        "name": "words",
        "classes": ["yes", "<no>&"],
        "train": 80,
        "validation": 10,
        "test": 20,
    },
    "device": {
        "name": "STM32F446RE",
        "core": "cortex-m4",
        "clock_mhz": 180,
        "sram_bytes": 131072,
        "flash_bytes": 524288,
    },
    "runtime": "tflm",
    "limits": {
        "sram_bytes": {"limit": 2048, "used": 1024, "largest": 8192},
        "latency_ms": {"limit": 100.0, "used": 80.0, "largest": 300.0},
    },
    "accuracy": {"float": 0.9, "int8": 0.85, "tflm": 0.85},
    "tflm_examples": 20,
    "confusion": [[9, 1], [2, 8]],
    "network": {"macs": 1168, "weights": 88, "layers": 4},
    "prediction": {"flash_bytes": {"predicted": 1010, "measured": 1000}},
    "listening": {
        "settings": {
            "classes": ["yes", "<no>&"],
            "hop_ms": 200,
            "window": 3,
            "threshold": 24576,
            "refractory": 5,
        },
        "alarms_per_hour": 20.0,
        "validation": {
            "hours": 0.5,
            "words": 600,
            "hits": 540,
            "alarms": 8,
            "confused": 7,
            "met": True,
            "curve": [[6554, 400.0, 0.05], [24576, 16.0, 0.1], [32440, 0.0, 0.6]],
        },
    },
    "widths": [
        {"name": "stem", "found": 8, "largest": 64},
        {"name": "block1", "found": None, "largest": 64},
    ],
    "seconds": {"search": 61.0, "train": 4.2},
    "peak_memory_mb": 900,
}

METRICS = [
    {"stage": "search", "epoch": 1, "loss": 2.0, "accuracy": 0.3, "sram_bytes": 1.4},
    {"stage": "search", "epoch": 2, "loss": 1.0, "accuracy": 0.6, "sram_bytes": 0.95},
    {"stage": "train", "epoch": 1, "loss": 1.0, "accuracy": 0.7, "validation_accuracy": 0.75},
    {"stage": "train", "epoch": 2, "loss": 0.5, "accuracy": 0.8, "validation_accuracy": 0.85},
    {"stage": "quantize", "epoch": 1, "loss": 0.4, "accuracy": 0.82, "validation_accuracy": 0.84},
]


class Page(html.parser.HTMLParser):
    """Text, tags and attributes; fails where elements do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"never closed: {self._open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "title"):
            self.words.append(data)

    def labels(self) -> list[str]:
        return [a["aria-label"] or "" for _, a in self.tags if "aria-label" in a]

    def headings(self) -> list[str]:
        return [w for w in self.words if w in HEADINGS]


HEADINGS = [
    "Limits",
    "Confusion matrix",
    "Listening",
    "Found widths",
    "Memory over time",
    "Search",
    "Training",
    "Layers",
    "Predicted and measured",
    "How it was made",
    "Files beside this page",
]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report.render(SUMMARY, NET, METRICS, {"model.tflite": 1000}))


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "network.json").write_text(network.to_json(NET))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "part").write_bytes(bytes(3072))
    return tmp_path


def test_shows_every_part_and_its_numbers(page: Page) -> None:
    assert page.headings() == HEADINGS
    text = page.text.replace("\u00a0", " ").replace("\u00d7", "x")
    for expected in (
        "85.0 % right, fits the STM32F446RE",
        "± 8.0 % std. error",  # sqrt(0.85 * 0.15 / 20)
        "1 KiB of 2 KiB 50 % largest network 4.0 x",
        "Latency, estimated",
        "yes 9 1 90.0",
        "precision, % 82 89 85.0",
        "<no>& taken for yes : 2 of 10",
        "stem 8 of 64",
        "block1 removed",
        "stem conv 3x3 1x1 relu 4x4x8 72 1,152",
        "model file 1,010 1,000 +1.00 %",
        "words, 80 train, 10 validation, 20 test",
        "search 1 min 1 s, train 4 s",
        "python -m experiments.kws --predict FILE --workdir RUN",
        "30 minutes of validation clips among noises, in which 600 words are said; 20 false alarms",
        "a word is detected from 75.0 % then none for 1 s words missed 10.0 %",
        "false alarms an hour 16: 8 in all, 7 of them just after a word",
    ):
        assert expected in text


def test_memory_rows_are_the_planner_s(page: Page) -> None:
    # By hand: the input's 16 bytes and the stem's 128 while the stem runs.
    steps = targets.timeline(NET, "tflm")
    labels = [label for label in page.labels() if "bytes at" in label]
    assert len(labels) == len(steps)
    assert "reads input, 16 bytes at" in labels[0]
    assert "makes stem, 128 bytes at" in labels[0]
    for label, step in zip(labels, steps, strict=True):
        sizes = re.findall(r"([\d,]+) bytes at", label)
        assert sum(int(size.replace(",", "")) for size in sizes) == step.live_bytes


def test_a_tensor_read_later_is_kept() -> None:
    wired = Network(
        (4, 4, 8),
        (
            Layer("a", "conv", (INPUT,), 8, 8),
            Layer("b", "conv", ("a",), 8, 8),
            Layer("c", "conv", ("a",), 8, 8),
            Layer("d", "conv", ("b",), 8, 8),
        ),
    )
    assert "kept for later" in report.render({}, wired)
    assert "kept for later" not in report.render({}, NET)


def test_pictures_lie_in_the_page_and_its_policy_lets_them() -> None:
    """One figure for each class; the policy forbids all but styles and what is in the page."""
    look = {"classes": ["a", "b"], "examples": [[2, 1]] * 3, "speakers": [], "remarks": []}
    shown = [{"class": name, "png": "iVBORw0KGgo="} for name in ("a", "a", "b")]
    page = Page(report.render({"look": look}, examples=shown))
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert {a["src"] for a in pictures} == {"data:image/png;base64,iVBORw0KGgo="}
    assert [a["alt"] for a in pictures] == ["a", "a", "b"]
    assert sum(tag == "figure" for tag, _ in page.tags) == 2
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_bytes_that_two_tensors_hold_are_counted_once() -> None:
    """Three of 10 bytes, at 0, 5 and 20: 25 bytes are held."""
    blocks = [memory.Block(name, at, 10, 0, 1) for name, at in (("a", 5), ("b", 0), ("c", 20))]
    assert sections._held(blocks) == 25


def test_loads_nothing_and_runs_nothing(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "href", "onload", "onclick"} & set(attributes)
        assert "url(" not in (attributes.get("style") or "")


def test_drawings_can_be_read_aloud(page: Page) -> None:
    drawings = [a for tag, a in page.tags if tag == "svg" and "aria-hidden" not in a]
    assert len(drawings) == 5
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    label = drawings[1]["aria-label"]
    assert label == "Share of each limit (1 is the limit): SRAM from 1.40 to 0.95"


def test_over_a_limit_is_said_first() -> None:
    limits = {"flash_bytes": {"limit": 100, "used": 120, "largest": 400}}
    text = Page(report.render({**SUMMARY, "limits": limits})).text
    assert "over the limits of the STM32F446RE: Flash" in text


@pytest.mark.parametrize("key", [*SUMMARY, None])
def test_missing_keys_leave_parts_out(key: str | None) -> None:
    summary = {k: v for k, v in SUMMARY.items() if k != key} if key else {}
    Page(report.render(summary, NET if key else None))


@pytest.mark.parametrize("key", [k for k, v in SUMMARY.items() if isinstance(v, dict)])
def test_missing_details_do_not_matter(key: str) -> None:
    Page(report.render({**SUMMARY, key: {}}, NET))
    for name, value in SUMMARY[key].items():
        Page(report.render({**SUMMARY, key: {k: v for k, v in SUMMARY[key].items() if k != name}}))
        if isinstance(value, dict):
            Page(report.render({**SUMMARY, key: {name: {}}}))


def test_trials_are_listed_as_they_ended():
    rows = [
        {"proposal": name, "held_out_loss": loss, "usage": {"mops": 0.97}, "widths": [8, 40]}
        for name, loss in (("balanced", 0.51), ("learned", 0.625))
    ]
    text = Page(report.render(SUMMARY, trials=rows)).text
    assert text.index("balanced") < text.index("learned") < text.index("0.625")
    assert "8 40" in text and "97.0%" in text
    assert "Contest" not in Page(report.render(SUMMARY)).text


def test_numbers_that_are_none_or_nan_are_gaps() -> None:
    metrics = [
        {"stage": "train", "epoch": 1, "loss": float("nan"), "accuracy": None},
        {"stage": "train", "epoch": 2, "loss": float("inf"), "accuracy": 0.5},
    ]
    page = Page(report.render(SUMMARY, metrics=metrics))
    assert "Accuracy: training from 50.0% to 50.0%" in page.labels()
    assert not any("nan" in (a.get("points") or "") for _, a in page.tags)
    classes = {"confusion": [[0, 0], [0, 0]], "data": {"classes": ["one"]}}
    Page(report.render({**SUMMARY, **classes}))


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
def test_text_is_escaped_wherever_it_enters(text: str) -> None:
    text = f"<b title='{text}\">${{body}}&amp;"
    summary = {
        **SUMMARY,
        "experiment": text,
        "command": text,
        "preset": text,
        "data": {**SUMMARY["data"], "name": text, "classes": [text, "b"]},
        "device": {**SUMMARY["device"], "name": text},
        "widths": [{"name": text, "found": 8, "largest": 64}],
        "limits": {text: {"limit": 1, "used": 2, "largest": 3}},
        "prediction": {text: {"predicted": 1, "measured": 0}},
    }
    plain = Page(report.render(SUMMARY, files={"model.tflite": 1}))
    page = Page(report.render(summary, files={"model.tflite": 1}))
    assert " ".join(text.split()) in page.text
    assert sum(tag == "b" for tag, _ in page.tags) == sum(tag == "b" for tag, _ in plain.tags) - 1
    assert all(set(a) <= {"class", "title", *KNOWN} for _, a in page.tags)


KNOWN = {
    "lang",
    "charset",
    "name",
    "content",
    "http-equiv",
    "role",
    "style",
    "scope",
    "tabindex",
    "aria-label",
    "aria-hidden",
} | {"viewbox", "points", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height"}
KNOWN |= {"text-anchor"}


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 8))
def test_ticks_enclose_the_range_and_are_few(a: float, b: float, count: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = markup.ticks(low, high, count)
    slack = 1e-6 * max(1e-3, high - low, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= count + 3
    assert ticks == sorted(set(ticks))


def test_ticks_by_hand() -> None:
    assert markup.ticks(0.1, 0.93, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert markup.ticks(0.95, 1.4, 5) == [0.9, 1.0, 1.1, 1.2, 1.3, 1.4]
    assert markup.ticks(1, 40, 6) == [0, 10, 20, 30, 40]


def test_write_reads_the_folder_and_gives_the_same_bytes_again(run: pathlib.Path) -> None:
    path = report.write(run)
    first = path.read_bytes()
    assert path == run / "report.html"
    page = Page(first.decode())
    assert page.headings() == HEADINGS
    assert "weights 3 KiB" in page.text.replace("\u00a0", " ")
    assert report.write(run).read_bytes() == first
    assert sorted(p.name for p in run.iterdir()) == [
        "metrics.jsonl",
        "network.json",
        "report.html",
        "summary.json",
        "weights",
    ]


def test_write_needs_only_the_summary(run: pathlib.Path) -> None:
    for name in ("network.json", "metrics.jsonl"):
        (run / name).unlink()
    assert Page(report.write(run).read_text()).headings()[0] == "Limits"


def test_write_names_what_is_missing_or_damaged(run: pathlib.Path) -> None:
    (run / "metrics.jsonl").write_text('{"stage": "se')
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        report.write(run)
    (run / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"has no summary\.json"):
        report.write(run)
    assert not (run / "report.html").exists()


def test_anomaly_detection_shows_machines_instead_of_a_confusion_matrix() -> None:
    machines = [
        {
            "label": 0,
            "normal": 5,
            "anomalous": 7,
            "auc": 0.8,
            "pauc": 0.6,
            "curve": [[0, 0], [1, 1]],
        }
    ]
    summary = {k: v for k, v in SUMMARY.items() if k not in ("confusion", "accuracy")}
    summary |= {
        "metric": "auc",
        "auc": {"float": 0.9, "int8": 0.8, "tflm": 0.8},
        "pauc": {"int8": 0.6},
        "machines": machines,
    }
    page = Page(report.render(summary))
    text = page.text.replace("\u00a0", " ")
    assert "Confusion matrix" not in text
    assert "Mean AUC 80.0 %, fits the STM32F446RE" in text
    assert "yes 5 7 80.00 % 60.00 % mean 80.00 % 60.00 %" in text
    assert "Failing recordings found: yes from 0% to 100%" in page.labels()
    assert "sound recordings taken for failing" in text


def test_the_space_and_the_front_of_the_population_are_shown() -> None:
    """Of four judged members two are on the front: fewest operations, and the least loss."""
    spaces = [
        {"space": "w0.3-r64", "chosen": True, "fit": 0.5, "mean_mops": 2.5, "mops": [2.0] * 21},
        {"space": "w0.2-r48", "chosen": False, "fit": 1.0, "mean_mops": 0.5, "mops": [0.5] * 21},
        {"space": "w1-r224", "chosen": False, "fit": 0.0, "mean_mops": 0.0, "mops": [0.0] * 21},
    ]
    judged = [("a", 2.0, 0.40), ("b", 1.0, 0.50), ("c", 1.5, 0.55), ("d", 2.5, 0.45)]
    proposals = [
        {"proposal": name, "mops": mops, "held_out_loss": loss} for name, mops, loss in judged
    ]
    page = report.render(SUMMARY, spaces=spaces, proposals=proposals)
    assert "w0.3-r64, chosen" in page and "w0.2-r48" in page and "w1-r224" not in page
    population = page[page.index("Population") : page.index("Held-out loss along the front")]
    assert re.findall(r'scope="row">(\w)<', population) == ["a", "b"]
    assert "Of 4 members" in population
    unjudged = [{**row, "held_out_loss": None} for row in proposals]
    assert "Population" not in report.render(SUMMARY, proposals=unjudged)


def test_lines_of_a_chart_differ_in_colour_or_dashes():
    page = str(report.render(SUMMARY))
    styles = dict(re.findall(r"\.(s\d) \{ ([^}]*) \}", page))
    assert len(styles) == len(set(styles.values())) == 8
    drawn = str(markup.chart("", {f"{i}": [(0, 0.0), (1, 1.0)] for i in range(8)}, "{:.1%}"))
    assert set(re.findall(r"polyline[^>]*line (s\d)", drawn)) == set(styles)


def test_what_the_interpreter_saw_is_compared_with_int8_on_the_same_examples():
    data = {**SUMMARY["data"], "test": 100}
    score = {**SUMMARY["accuracy"], "int8_there": 0.87}
    for examples, said in ((20, "on 20 of them; int8 there 87.00 %"), (100, "on 100 of them")):
        summary = SUMMARY | {"data": data, "accuracy": score, "tflm_examples": examples}
        text = Page(report.render(summary)).text.replace("\u00a0", " ")
        assert said in text
        assert ("int8 there" in text) == ("int8 there" in said)


def test_compiled_memory_is_the_compilers_plan_with_shared_bytes_shown():
    """Layers write over what they read."""
    from micronets_jax.report import sections
    from micronets_jax.targets.compiled.memory import arena_bytes

    steps = targets.timeline(NET, "compiled")
    blocks = {block for step in steps for block in step.live}
    assert max(b.start + b.bytes for b in blocks) == arena_bytes(NET)
    assert any(sections._shared(step.live) for step in steps)
    page = report.render({"runtime": "compiled"}, NET)
    assert "read, then made" in page and "serve both" in page
    assert "serve both" not in report.render({"runtime": "tflm"}, NET)


def test_the_plan_of_the_program_is_drawn_and_said():
    """Steps that stretch over several layers, and in the console what they come to."""
    from micronets_jax import compile as compiler
    from micronets_jax import console, export, latency_fit, pipeline

    model = export.assemble(NET, *latency_fit.random_weights(np.random.default_rng(0), NET))
    built = compiler.compile_model(model, plan="memory")
    plan = pipeline._planned(built)
    first, last = next(point.streams[0] for point in built.front if point.streams)
    page = report.render(
        {"runtime": "compiled", "firmware": {"runtime": "compiled", "plan": plan}}, NET
    )
    streaming = sum(layer["rows"] for layer in plan["layers"])
    said = f"{streaming} of {len(plan['layers'])} layers go row by row"
    assert f"{first} to {last}" in page and said in page and "fewer instructions" in page
    assert said in console._plan(plan) and "the fastest plan: " in console._plan(plan)
    assert said not in report.render({"runtime": "tflm", "firmware": {"plan": plan}}, NET)


def test_a_program_that_takes_longer_than_allowed_is_told():
    """A search times whole tensors; of little memory the program goes by rows and takes longer."""
    from micronets_jax import console

    summary = {
        "limits": {"sram_bytes": {"limit": 1}, "latency_ms": {"limit": 40.0}},
        "latency": {"predicted_ms": 41.234, "predicted_mj": None},
    }
    (line,) = console._late(summary)
    assert line.startswith("warning: 41.23 ms is more than the 40 allowed")
    summary["latency"]["predicted_ms"] = 40.0
    assert not list(console._late(summary))


# ---------------------------------------------------------------- fronts


def front(folder: pathlib.Path) -> pathlib.Path:
    """Two networks, of which the second uses and reaches more."""
    for name, macs, score in (("mops-0.1", 30_000, 0.8), ("mops-<2>", 900_000, 0.9)):
        summary = SUMMARY | {
            "metric": "accuracy",
            "accuracy": {"float": score, "int8": score - 0.01},
            "network": {"macs": macs},
            "latency": {"predicted_ms": macs / 1e5, "predicted_mj": None},
        }
        (folder / name).mkdir(parents=True)
        (folder / name / "summary.json").write_text(json.dumps(summary))
    said = {
        "experiment": "kws",
        "preset": "tiny",
        "seed": 3,
        "command": "python -m experiments.kws --budget.mops 0.1 2",
        "data": {"name": "words"},
        "networks": ["mops-0.1", "mops-<2>"],
        "published": [
            {"name": "Net-S", "score": 0.953, "device": "Board", "used": {"mops": 16.4}},
        ],
        "seconds": {"search": 60.0, "contest": 30.0},
    }
    (folder / "front.json").write_text(json.dumps(said))
    rows = [
        {"stage": "search", "epoch": i, "accuracy": 0.2 * i, "mops 1": 1.1, "mops 2": 0.9}
        for i in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_page_of_a_front_has_every_network_and_its_costs(tmp_path):
    page = Page(report.write_front(front(tmp_path / "f")).read_text())
    assert "2 networks from one search" in page.text
    assert "Accuracy from 79.0% to 89.0% in eight bits" in page.text
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["mops-0.1/report.html", "mops-%3C2%3E/report.html"]
    for cell in ("0.06\u00a0million", "1.80\u00a0million", "Net-S", "95.3%", "16.40\u00a0million"):
        assert cell.replace("\u00a0", " ") in page.text
    titles = " ".join(page.labels())
    assert "Accuracy by Operations: int8 from 79.0% to 89.0%" in titles
    # Both networks use as much memory, so there is nothing to draw.
    assert "Accuracy by SRAM" not in titles and "Accuracy by Latency, estimated" in titles
    assert "Operations, share of the limit: mops-0.1 from 1.10 to 1.10; mops-<2>" in titles
    assert "search 1 min 0 s, contest 30 s" in page.text


def test_a_front_whose_networks_are_not_all_there_is_refused(tmp_path):
    folder = front(tmp_path / "f")
    (folder / "mops-0.1" / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"mops-0.1 has no summary.json: let the run finish"):
        report.write_front(folder)
