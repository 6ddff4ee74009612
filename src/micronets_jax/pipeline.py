"""The whole path of one run: search, training, quantisation, export, measurement, report.

Invariant: each stage is a pure function of the plan and of the stages before it. Checkpoints are
written after epochs, so that a killed run continues and ends with the same result.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import math
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from micronets_jax import (
    accelerators,
    budgets,
    cost,
    data,
    derive,
    devices,
    export,
    firmware,
    hosts,
    latency,
    listening,
    losses,
    metrics,
    network,
    quantize,
    recipes,
    report,
    runtimes,
    search,
    spotting,
    supernet,
    targets,
    training,
    zoo,
)
from micronets_jax import compile as compiler
from micronets_jax.data import Augmentation, Dataset, FrontEnd
from micronets_jax.decisions import Choice
from micronets_jax.devices import Device
from micronets_jax.files import SUMMARY
from micronets_jax.network import Network
from micronets_jax.spaces import Space, survey
from micronets_jax.targets.compiled.rows import least_arena_bytes
from micronets_jax.targets.tflm import arena as tflm
from micronets_jax.workdir import Workdir, WorkdirError

NUM_SAMPLES = 64
"""Test examples written to ``samples.npz``."""

CALIBRATION_BATCHES = 4

NETWORK, CONTEST = "network.json", "contest.json"
SPACES, PROPOSALS = "spaces.json", "proposals.json"
"""Files of the network found, of the trials by which it was, of the spaces that could be chosen and
of what the search proposed."""

FIRMWARE = "firmware"
"""The folder of the firmware in that of a run."""

EMULATED_MINUTES = 0.1
"""Of a stream that the firmware of a spotter hears in the emulator."""

LISTENING = "listening.json"
"""How a spotter listens to a stream, and the curve by which that was chosen."""

Teacher = Callable[[Array], Array]
"""From inputs to the logits of a network that is already trained."""

RESULTS, LABELS = ("model.tflite", "frontend.json"), "labels.txt"
"""What a run leaves that answering for a file needs, and what it needs besides where the network's
outputs are classes."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """A learning task.

    Attributes:
        dataset: examples, and the names of their classes if they have some.
        frontend: from raw examples to features.
        augmentation: of training examples.
        space: the search space.
        metric: of outputs on a split.
        surveys: of the spaces among which this one was chosen, if it was.
        published: scores of published networks of ``zoo`` at this task, as their paper gives them.
        num_tflm: most test examples for TensorFlow Lite Micro, whose portable kernels are slow.
        listening: settings of a spotter on a stream; None for other tasks.
        loss: what networks are trained by and what says what their outputs are; cross entropy of
            classes unless another is given.
    """

    dataset: Dataset
    frontend: FrontEnd
    augmentation: Augmentation
    space: Space
    metric: metrics.Metric = metrics.accuracy
    surveys: Sequence[survey.Survey] = ()
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    num_tflm: int = 1000
    listening: recipes.Listening | None = None
    loss: losses.Loss = losses.CROSS_ENTROPY


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Plan(Task):
    """Everything that decides a run's result.

    Attributes:
        budget: limits that the result meets.
        device: the board of the firmware.
        search: settings of one of ``search.SEARCHES``.
        train, quantize: recipes of training in float and of quantisation-aware training.
        teacher: widths of the teacher for distillation, as multiples of those of the largest
            network of the space.
        seed: of everything random.
        firmware: whether the run ends with the firmware for the device.
        facts: further entries of the summary.
    """

    budget: budgets.Budget
    device: Device
    search: recipes.Search
    train: recipes.FloatTraining
    quantize: recipes.Training
    seed: int
    teacher: float = 2.0
    firmware: bool = True
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)


Made = TypeVar("Made")


@runtime_checkable
class Display(Protocol):
    """What shows a run to a person; ``console.Console`` is one."""

    def stage(self, name: str) -> training.Progress:
        """A stage begins; what it returns is called now and then."""
        ...

    def epoch(self, stage: str, record: Mapping[str, int | float]) -> None:
        """An epoch has ended."""
        ...


def run(plan: Plan, workdir: Workdir, display: Display) -> dict[str, Any]:
    """Search, train, quantise, export, measure, report; continues what ``workdir`` already holds.

    Several hosts search and train together; the first one does the rest.

    Returns:
        What ``summary.json`` says; empty on other hosts than the first.

    A space without decisions leaves nothing to search; the run begins with training.

    Raises:
        ValueError: nothing in the space fits, it has no supernet to start from, or as
            :func:`check`; raised before any training.
        FirmwareError: the firmware of the result does not fit, link or run, which is an error of
            this library; raised when all else is written.
    """
    timed = _Clock()
    given = problem(plan)
    (found,), shared = _find([plan], given, [workdir], workdir, display, timed)
    teacher = timed("teacher", _teacher, plan, workdir, display)
    return _build(plan, workdir, display, found, shared, teacher, timed)


def front(
    plans: Mapping[str, Plan], places: Mapping[str, Workdir], workdir: Workdir, display: Display
) -> dict[str, Any]:
    """A network for each of several limits from one search; continues what the folders hold.

    Search, contest and teacher happen once. Then each network is trained, quantised, exported and
    measured by itself, and what it leaves is what :func:`run` leaves.

    Args:
        plans: by the name of the network; they differ in budget and device alone.
        places: where each network's results go.
        workdir: where the search is kept, and ``front.json`` and the page about all of them go.
        display: what shows the run.

    Returns:
        What ``front.json`` says; empty on other hosts than the first.

    Raises:
        ValueError, FirmwareError: as :func:`run`; the latter when all else is written.
    """
    timed, (first, *_) = _Clock(), plans.values()
    given = problem(first, [plan.budget for plan in plans.values()])
    kept = [places[name] for name in plans]
    networks, shared = _find(list(plans.values()), given, kept, workdir, display, timed)
    teacher = timed("teacher", _teacher, first, workdir, display)
    troubles = []
    for (name, plan), found in zip(plans.items(), networks, strict=True):
        whole = functools.partial(_is_whole, places[name].path)
        if hosts.from_first(lambda whole=whole: "whole" if whole() else "not") == "whole":
            continue
        try:
            _build(plan, places[name], _Named(display, name), found, shared, teacher, _Clock())
        except firmware.FirmwareError as trouble:
            troubles.append(f"{name}: {trouble}")
    if not hosts.first():
        return {}
    said = {
        **first.facts,
        "seed": first.seed,
        "data": {"name": first.dataset.name},
        "networks": list(plans),
        "published": _published(list(plans.values())),
        "seconds": timed.seconds,
    }
    workdir.write(report.FRONT, json.dumps(said, indent=2) + "\n")
    report.write_front(workdir.path)
    if troubles:
        raise firmware.FirmwareError("; ".join(troubles))
    return said


class _Clock:
    """Calls the functions of stages and keeps how long they took, but of those that gave None."""

    def __init__(self) -> None:
        self.seconds: dict[str, int | float] = {}

    def __call__(self, stage: str, function: Callable[..., Made], *arguments: object) -> Made:
        start = time.monotonic()
        result = function(*arguments)
        if result is not None:
            self.seconds[stage] = round(time.monotonic() - start, 1)
        return result


@dataclasses.dataclass(frozen=True)
class _Named:
    """A display of one network of several, whose name goes before that of each stage."""

    display: Display
    name: str

    def stage(self, name: str) -> training.Progress:
        return self.display.stage(f"{self.name} {name}")

    def epoch(self, stage: str, record: Mapping[str, int | float]) -> None:
        self.display.epoch(f"{self.name} {stage}", record)


def _find(
    plans: Sequence[Plan],
    given: search.Problem,
    places: Sequence[Workdir],
    workdir: Workdir,
    display: Display,
    timed: _Clock,
) -> tuple[list[Network], training.Variables]:
    """The network of each plan, and the weights that the search shared.

    Args:
        plans: they differ in budget and device alone.
        given: what the search is given; its budgets are the plans'.
        places: where each plan's network and contest go.
        workdir: where the search is kept.
        display: shows the search.
        timed: of the stages.
    """
    plan, *_ = plans
    check(plan)
    witnesses = [budgets.feasible(one.space, one.budget) for one in plans]
    if plan.train.from_supernet and not plan.space.decisions():
        raise ValueError("train.from_supernet=True: the network is given, so there is no supernet")
    made = search.of(plan.search, given)
    state = timed("search", _search, plan, given, workdir, display, made)
    found = timed("contest", _contest, plans, given, places, state, witnesses)
    return found, made.variables(state) if plan.space.decisions() else {}


def _build(
    plan: Plan,
    workdir: Workdir,
    display: Display,
    found: Network,
    shared: training.Variables,
    teacher: Teacher | None,
    timed: _Clock,
) -> dict[str, Any]:
    """All that follows when the network is found: train, quantise, export, measure, report."""
    variables = timed("train", _train, plan, workdir, display, found, shared, teacher)
    trained, rounding = timed(
        "quantize", _quantize, plan, workdir, display, found, variables, teacher
    )
    workdir.save_weights({**variables, **trained})
    if not hosts.first():
        return {}
    model = timed("export", _export, plan, workdir, found, trained)
    heard = timed("listen", _listen, plan, workdir, model)
    program, trouble = {}, None
    if plan.firmware:
        program, trouble = timed("firmware", _firmware, plan, workdir, found, model)
    summary = timed("measure", _measure, plan, workdir, found, variables, model, program)
    if heard is not None:
        summary["listening"] = heard
    summary["quantization"] = rounding
    summary["seconds"] = timed.seconds
    summary["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    workdir.write(SUMMARY, json.dumps(summary, indent=2) + "\n")
    report.write(workdir.path)
    if trouble is not None:
        raise firmware.FirmwareError(
            f"the firmware of the network found fails, which is an error of ours: {trouble}"
        )
    return summary


def inputs(plan: Plan) -> training.Inputs:
    """Front end and augmentation as one pure function of a key, raw examples and labels."""

    def augmented(key: Array, raw: Array, labels: Array) -> tuple[Array, Array]:
        return plan.augmentation(key, plan.dataset, plan.frontend, raw, labels)

    return augmented


def problem(plan: Plan, front: Sequence[budgets.Budget] = ()) -> search.Problem:
    """What the plan's search is given, and the budgets of a front if it is to serve several."""
    batch = plan.search.batch_size // 2
    examples = math.gcd(batch, batch // max(len(front), 1))
    return search.Problem(
        plan.space,
        plan.budget,
        plan.dataset.train.halves(plan.seed),
        inputs(plan),
        plan.frontend,
        plan.seed,
        accelerators.mesh(examples, plan.search.side_by_side),
        plan.loss,
        tuple(front),
    )


def searching(plan: Plan, front: Sequence[budgets.Budget] = ()) -> search.Search:
    """The plan's search.

    Raises:
        ValueError: it cannot search the plan's space, or not for so many budgets.
    """
    return search.of(plan.search, problem(plan, front))


def check(plan: Plan) -> None:
    """Refuse options, data or a space that do not go with the plan's loss.

    Raises:
        ValueError: the message names what it is.
    """
    loss, dataset, network = plan.loss, plan.dataset, plan.space.supernetwork()
    for stage in ("train", "quantize"):
        for option in ("label_smoothing", "distillation"):
            if share := getattr(getattr(plan, stage), option):
                loss.require_classes(f"{stage}.{option}={share:g}")
    outputs = network.layers[-1].out_channels
    if loss.of_classes:
        if dataset.num_classes < 2 or dataset.num_classes != outputs:
            raise ValueError(
                f"the data have {dataset.num_classes} classes and networks {outputs} outputs: the "
                f"loss, {loss.name}, needs as many of both, and at least 2"
            )
        return
    if plan.listening is not None:
        raise ValueError(f"listening needs words to tell, but the loss is the {loss.name}")
    if plan.metric is metrics.accuracy:
        raise ValueError(f"metric=accuracy needs classes, but the loss is the {loss.name}")
    raw, labels = plan.dataset.train.take(slice(2))
    x, targets = jax.eval_shape(inputs(plan), jax.random.key(0), raw, labels)
    jax.eval_shape(loss.value, jax.ShapeDtypeStruct((len(raw), outputs), x.dtype), targets, x)


def outputs(folder: pathlib.Path) -> losses.Outputs:
    """What the network of a finished run gives."""
    try:
        return json.loads((folder / SUMMARY).read_text())["loss"]["outputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return "classes"  # of a run that does not say


def classify(folder: pathlib.Path, path: pathlib.Path) -> list[tuple[str, float]]:
    """Classes with their probabilities, the likeliest first, by the model of a finished run.

    Of a file that holds several examples, the mean over these.

    Raises:
        DataError: the file cannot be read.
        WorkdirError: the folder holds no finished run.
    """
    _, logits = predict(folder, path)
    if not (folder / LABELS).is_file():
        raise _unfinished(folder, LABELS)
    names = (folder / LABELS).read_text().splitlines()
    probabilities = np.asarray(jax.nn.softmax(logits)).mean(axis=0)
    return sorted(zip(names, probabilities.tolist(), strict=True), key=lambda row: -row[1])


def predict(
    folder: pathlib.Path, path: pathlib.Path
) -> tuple[Float[np.ndarray, "examples ..."], Float[np.ndarray, "examples outputs"]]:
    """Features of the examples of a file, and what the model of a finished run gives for them.

    Raises:
        DataError: the file cannot be read.
        WorkdirError: the folder holds no finished run.
    """
    frontend, model = _results(folder)
    says = model.output_details
    features = np.asarray(frontend(frontend.read(path)))
    return features, runtimes.dequantize(_on_device(model)(features), says.scale, says.zero_point)


def experiment_of(folder: pathlib.Path) -> str | None:
    """The experiment whose run a folder holds; None where that cannot be known."""
    try:
        return json.loads((folder / SUMMARY).read_text()).get("experiment")
    except (OSError, ValueError, AttributeError):
        return None


def listens(folder: pathlib.Path) -> spotting.Settings | None:
    """How the spotter of a finished run listens; None if a run is of another kind.

    Raises:
        WorkdirError: the settings are damaged.
    """
    path = folder / LISTENING
    if not path.is_file():
        return None
    try:
        return spotting.from_json(path.read_text())
    except ValueError as error:
        raise WorkdirError(f"{path} is damaged ({error}); run again with --resume") from error


def listen(
    folder: pathlib.Path, path: pathlib.Path, settings: spotting.Settings
) -> Iterator[tuple[float, str, float]]:
    """The words of a recording of any length, by the spotter of a finished run.

    Memory does not grow with the length.

    Yields:
        Seconds from the beginning at which a word is detected, the word, how sure the spotter is;
        each as soon as it is known.

    Raises:
        DataError: the file cannot be read.
        WorkdirError: the folder holds no finished run.
    """
    frontend, model = _results(folder)
    assert isinstance(frontend, data.MFCC)  # nothing else has settings of a listener
    spotter, scale = spotting.Spotter(settings), model.output_details.scale
    blocks = data.recordings.blocks(path)
    for q in listening.sliding.logits(blocks, frontend, settings.hop_ms, _on_device(model)):
        for event in spotter.hear(spotting.posteriors(q, scale)):
            share = event.confidence / spotting.ONE
            yield settings.seconds(event.step), settings.classes[event.label], share


def _results(folder: pathlib.Path) -> tuple[FrontEnd, runtimes.LiteRT]:
    """Front end and int8 model of a finished run."""
    if (folder / report.FRONT).is_file():
        names = json.loads((folder / report.FRONT).read_text())["networks"]
        each = ", ".join(str(folder / name) for name in names)
        raise WorkdirError(
            f"workdir={folder} holds a front of {len(names)} networks: give one of {each}"
        )
    missing = [name for name in RESULTS if not (folder / name).is_file()]
    if missing:
        raise _unfinished(folder, missing[0])
    frontend = data.frontends.from_json((folder / "frontend.json").read_text())
    return frontend, runtimes.LiteRT((folder / "model.tflite").read_bytes())


def _unfinished(folder: pathlib.Path, missing: str) -> WorkdirError:
    return WorkdirError(f"workdir={folder} holds no finished run: {missing} is missing")


def _on_device(model: runtimes.LiteRT) -> Callable[[np.ndarray], np.ndarray]:
    """From features to the model's own int8 outputs."""
    reads = model.input_details
    return lambda x: model.predict(runtimes.quantize_input(x, reads.scale, reads.zero_point))


# ---------------------------------------------------------------- stages


def _search(
    plan: Plan, given: search.Problem, workdir: Workdir, display: Display, made: search.Search
) -> Any:
    """The last state of the search; None where there is nothing to search."""
    if not plan.space.decisions():
        return None
    state = made.init(jax.random.key(plan.seed))
    if not plan.search.epochs:
        return state
    _, state = workdir.restore("search", state)
    epochs = search.run(made, state, plan.search, given, display.stage("search"))
    for state, record in epochs:
        last = record["epoch"] == plan.search.epochs
        _keep(workdir, display, "search", state, record, last=last)
    return accelerators.local(state)


def _contest(
    plans: Sequence[Plan],
    given: search.Problem,
    places: Sequence[Workdir],
    state: Any,
    witnesses: Sequence[Choice],
) -> list[Network]:
    """The network that wins for each plan, by the first host's arithmetic; its witness fits and is
    the last resort."""

    def decided() -> str:
        found = _decide(plans, given, places, state, witnesses)
        return json.dumps([network.to_json(one) for one in found])

    return [network.from_json(one) for one in json.loads(hosts.from_first(decided))]


def _decide(
    plans: Sequence[Plan],
    given: search.Problem,
    places: Sequence[Workdir],
    state: Any,
    witnesses: Sequence[Choice],
) -> list[Network]:
    paths = [place.path / NETWORK for place in places]
    if all(path.is_file() for path in paths):  # it was decided before the run was stopped
        return [network.from_json(path.read_text()) for path in paths]
    (plan, *_), proposed = plans, [[] for _ in plans]
    if state is not None:
        proposed = [search.of(plan.search, one).proposals(state) for one in given.each()]
    for place, offered in zip(places, proposed, strict=True):
        if plan.surveys:
            place.write(SPACES, json.dumps(survey.records(plan.surveys), indent=1) + "\n")
        listed = [_listed(plan, one) for one in offered]
        place.write(PROPOSALS, json.dumps(listed, indent=1) + "\n")
    verdicts = search.decide_front(proposed, plan.search, given, witnesses)
    return [
        _decided(one, place, *verdict)
        for one, place, verdict in zip(plans, places, verdicts, strict=True)
    ]


def _decided(
    plan: Plan, workdir: Workdir, choice: Choice, trials: Sequence[search.Trial]
) -> Network:
    """The network of a choice, written with the trials by which it was chosen."""
    found = plan.space.decode(choice)
    if trials:
        rows = [
            {
                "proposal": trial.proposal.name,
                "held_out_loss": trial.loss,
                "usage": {name: float(x) for name, x in plan.budget.usage(trial.network).items()},
                "widths": [x.out_channels for x in trial.network if x.kind == "conv"],
            }
            for trial in trials
        ]
        workdir.write(CONTEST, json.dumps(rows, indent=2) + "\n")
    workdir.write(NETWORK, network.to_json(found))
    return found


def _listed(plan: Plan, proposal: search.Proposal) -> dict[str, object]:
    return {
        "proposal": proposal.name,
        "mops": cost.ops(plan.space.decode(proposal.choice)) / 1e6,
        "held_out_loss": proposal.loss,
    }


def _is_whole(folder: pathlib.Path) -> bool:
    """Whether a run left all that it leaves, and nothing is wrong with its firmware."""
    if not all((folder / name).is_file() for name in (SUMMARY, report.REPORT)):
        return False
    return "error" not in json.loads((folder / SUMMARY).read_text()).get("firmware", {})


def _published(plans: Sequence[Plan]) -> list[dict[str, object]]:
    """What published networks of the task score, and what they would use of the largest board."""
    plan = max(plans, key=lambda one: (one.device.sram_bytes, one.device.flash_bytes))
    free = recipes.Limits(mops=1e9, latency_ms=1e9)
    budget = budgets.Budget.of(plan.device, free, plan.budget.runtime, plan.budget.besides)
    rows = [(name, score, zoo.network(name)) for name, score in plan.published.items()]
    return [
        {
            "name": name,
            "score": score,
            "device": plan.device.name,
            "used": {limit: float(used) for limit, used in budget.used(one).items()},
        }
        for name, score, one in rows
    ]


def _teacher(plan: Plan, workdir: Workdir, display: Display) -> Teacher | None:
    """A larger network, trained by the same recipe; None where nothing is distilled from it."""
    if not max(plan.train.distillation, plan.quantize.distillation):
        return None
    larger = zoo.scaled(network.prune(plan.space.supernetwork()), plan.teacher)
    fresh = supernet.init(jax.random.key(plan.seed), larger)
    recipe = dataclasses.replace(plan.train, distillation=0.0)
    variables = _fit_float(plan, workdir, display, "teacher", larger, fresh, recipe, None)
    model = supernet.Supernet(larger)
    return lambda x: jnp.asarray(model.apply(variables, x))


def _train(
    plan: Plan,
    workdir: Workdir,
    display: Display,
    found: Network,
    shared: training.Variables,
    teacher: Teacher | None,
) -> training.Variables:
    if plan.train.from_supernet:
        fresh = derive.recalibrate(found, derive.weights(found, shared), _calibration(plan))
    else:
        fresh = supernet.init(jax.random.key(plan.seed), found)
    return _fit_float(plan, workdir, display, "train", found, fresh, plan.train, teacher)


def _fit_float(
    plan: Plan,
    workdir: Workdir,
    display: Display,
    stage: str,
    subject: Network,
    fresh: training.Variables,
    recipe: recipes.FloatTraining,
    teacher: Teacher | None,
) -> training.Variables:
    model = supernet.Supernet(subject)

    def logits(state: training.State, x: Array) -> Array:
        return jnp.asarray(model.apply({"params": state.trainable, "batch_stats": state.stats}, x))

    state = _fit(
        plan,
        workdir,
        display,
        stage,
        training.float_model(subject, precision=recipe.precision),
        (fresh["params"], fresh["batch_stats"]),
        recipe,
        teacher,
        logits,
        seed=plan.seed,
    )
    variables = {"params": state.trainable, "batch_stats": state.stats}
    return derive.settled(
        subject, variables, plan.dataset.train, inputs(plan), recipe, seed=plan.seed + 2
    )


def _quantize(
    plan: Plan,
    workdir: Workdir,
    display: Display,
    found: Network,
    variables: training.Variables,
    teacher: Teacher | None,
) -> tuple[training.Variables, dict[str, Any]]:
    """Weights and ranges of the delivered network, and how they were chosen.

    With 8 bits a network often loses nothing when its float weights are rounded, and training it
    on only fits the training examples more closely. So the rounded network is kept where its
    validation loss is not above that of the network trained on.
    """
    fold = functools.partial(quantize.fold, found)
    folded = accelerators.once(fold, variables["params"], variables["batch_stats"])
    ranges = quantize.calibrate(found, folded, _calibration(plan))
    rounded: training.Variables = {"folded": folded, "ranges": ranges}

    def logits(state: training.State, x: Array) -> Array:
        return quantize.apply(found, state.trainable["folded"], state.trainable["ranges"], x)

    state = _fit(
        plan,
        workdir,
        display,
        "quantize",
        training.quantized_model(found),
        (rounded, {}),
        plan.quantize,
        teacher,
        logits,
        seed=plan.seed + 1,
    )
    candidates = {"rounded": rounded, "trained": state.trainable}
    losses = {
        name: _validation_loss(plan, logits, state._replace(trainable=values))
        for name, values in candidates.items()
    }
    kept = min(losses, key=lambda name: losses[name])
    return dict(candidates[kept]), {"kept": kept, "validation_loss": losses}


def _fit(
    plan: Plan,
    workdir: Workdir,
    display: Display,
    stage: str,
    model: training.Model,
    fresh: tuple[training.Variables, training.Variables],
    recipe: recipes.Training,
    teacher: Teacher | None,
    logits: Callable[[training.State, Array], Array],
    *,
    seed: int,
) -> training.State:
    """Train from what is kept of the stage, or from ``fresh`` variables and moments, to its end."""
    train = plan.dataset.train
    ends = training.rounds(recipe, train.num_batches(recipe.batch_size))
    _, state = workdir.restore(stage, training.init(*fresh, recipe, ends[-1]))
    epochs = training.fit(
        model,
        state,
        train,
        inputs(plan),
        recipe,
        seed=seed,
        loss=_loss(plan, recipe, teacher),
        mesh=accelerators.mesh(recipe.batch_size),
        progress=display.stage(stage),
    )
    for state, record in epochs:
        record |= _validation(plan, logits, accelerators.local(state))
        _keep(workdir, display, stage, state, record, last=int(state.step) == ends[-1])
    return accelerators.local(state)


def _export(plan: Plan, workdir: Workdir, found: Network, trained: training.Variables) -> bytes:
    model = export.to_tflite(found, trained["folded"], trained["ranges"])
    workdir.write("model.tflite", model)
    if plan.loss.of_classes:
        workdir.write(LABELS, "".join(f"{name}\n" for name in plan.dataset.class_names))
    workdir.write("frontend.json", data.frontends.to_json(plan.frontend))
    return model


def _listen(plan: Plan, workdir: Workdir, model: bytes) -> dict[str, object] | None:
    """What a spotter's smoothing and threshold are, and the curve by which they were chosen."""
    if plan.listening is None:
        return None
    recipe, frontend = plan.listening, plan.frontend
    assert isinstance(frontend, data.MFCC)
    interpreter = runtimes.LiteRT(model)
    stream = listening.streams.of_split(plan.dataset, "validation", recipe.minutes, plan.seed)
    logits = listening.sliding.logits(
        [stream.samples], frontend, recipe.hop_ms, _on_device(interpreter)
    )
    scale = interpreter.output_details.scale
    choice = listening.choosing.choose(
        [spotting.posteriors(np.concatenate(list(logits)), scale)],
        [stream],
        plan.dataset.class_names,
        recipe.hop_ms,
        recipe.alarms_per_hour,
    )
    facts = {"alarms_per_hour": recipe.alarms_per_hour, "validation": choice.facts()}
    workdir.write(LISTENING, spotting.to_json(choice.settings, facts))
    return {"settings": dataclasses.asdict(choice.settings), **facts}


def _measure(
    plan: Plan,
    workdir: Workdir,
    found: Network,
    variables: training.Variables,
    model: bytes,
    made: Mapping[str, Any],
) -> dict[str, Any]:
    dataset, test = plan.dataset, plan.dataset.test
    features = data.split_features(dataset, "test", plan.frontend)
    apply: Any = supernet.Supernet(found).apply
    floats = training.predict(apply, variables, features)
    hard = _hardest(plan, workdir, apply, variables)
    workdir.write("examples.json", json.dumps(_shown(plan)) + "\n")
    desktop, micro = runtimes.LiteRT(model), runtimes.TFLM(model)
    reads, says = desktop.input_details, desktop.output_details
    quantized = runtimes.quantize_input(features, reads.scale, reads.zero_point)
    few = test.sample(plan.num_tflm, plan.seed)
    outputs, micro_outputs = desktop.predict(quantized), micro.predict(quantized[few])
    _write_samples(workdir, quantized[few], test.labels[few], micro_outputs)
    logits, micro_logits = (
        runtimes.dequantize(x, says.scale, says.zero_point) for x in (outputs, micro_outputs)
    )
    scores = {
        "float": plan.metric(floats, test),
        "int8": plan.metric(logits, test),
        "tflm": plan.metric(micro_logits, test.part(few)),
        "int8_there": plan.metric(logits[few], test.part(few)),
    }
    arena, expected = micro.arena(), tflm.arena(found, tflm.HOST)
    largest = network.prune(plan.space.supernetwork())
    used, most = plan.budget.used(found), plan.budget.used(largest)
    instructions = _instructions(plan, found, model, made)
    return {
        **plan.facts,
        "seed": plan.seed,
        "data": {
            "name": dataset.name,
            "classes": list(dataset.class_names),
            **{name: len(getattr(dataset, name)) for name in ("train", "validation", "test")},
        },
        "device": plan.device.facts(),
        "runtime": plan.budget.runtime,
        "limits": {
            name: {"limit": limit, "used": used[name], "largest": most[name]}
            for name, limit in plan.budget.limits().items()
        },
        "loss": {"name": plan.loss.name, "outputs": plan.loss.outputs},
        "metric": next(iter(scores["int8"])),
        **_by_kind(scores),
        "tflm_examples": len(few),
        "hardest": hard,
        "network": {
            "macs": cost.macs(found),
            "weights": cost.weights(found),
            "layers": len(found),
        },
        "latency": _latency(plan, found, instructions),
        "prediction": {
            "instructions": instructions,
            "flash_bytes": {"predicted": cost.flash_bytes(found), "measured": len(model)},
            "tflm_host_activation_bytes": {
                "predicted": expected.activations,
                "measured": arena.activation_bytes,
            },
            "tflm_host_persistent_bytes": {
                "predicted": expected.persistent,
                "measured": arena.persistent_bytes,
            },
        },
        "widths": _widths(found, largest),
        **({"firmware": made} if made else {}),
    }


def _instructions(
    plan: Plan, found: Network, model: bytes, made: Mapping[str, Any]
) -> Mapping[str, int | None]:
    """Instructions of the delivered program: predicted, and counted in an emulator if there is one.

    ``made`` is what is known of the firmware, used where its runtime is the plan's.
    """
    runtime, core = plan.budget.runtime, plan.device.core
    if made.get("runtime") == runtime:
        known = made["instructions"]
        return {"predicted": known["predicted"], "measured": known["emulated"]}
    if runtime != "compiled":  # TensorFlow Lite Micro is nobody's part of this repository
        return {"predicted": latency.instructions(found, runtime, core), "measured": None}
    delivered = _delivered(plan, found)
    built = compiler.compile_model(model, **delivered)
    counted = {"predicted": _on_core(built.instructions, found, core)}
    if not (firmware.has_compiler() and firmware.has_emulator()):
        return counted | {"measured": None}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "firmware"
        firmware.write(model, devices.emulated(core).name, folder, **delivered)
        ran = firmware.run(folder, compare=False)
    return counted | {"measured": ran.instructions}


def _on_core(instructions: int, found: Network, core: str) -> int:
    """What the compiler predicts of a program, for a Cortex-M4, on another core: in proportion to
    what the layers take on either as whole tensors."""
    whole = [float(latency.instructions(found, "compiled", c)) for c in (core, "cortex-m4")]
    return round(instructions * whole[0] / whole[1])


def _latency(
    plan: Plan, found: Network, instructions: Mapping[str, int | None]
) -> dict[str, object]:
    """Estimated milliseconds and millijoules on the board, from both counts of instructions."""
    runtime, on = plan.budget.runtime, plan.device
    whole = latency.instructions(found, runtime, on.core)

    def share(estimate: Callable[..., float], kind: str) -> float | None:
        counted = instructions[kind]
        return None if counted is None else estimate(found, on, runtime) * (counted / whole)

    return {
        "runtime": runtime,
        "predicted_ms": share(latency.latency_ms, "predicted"),
        "emulated_ms": share(latency.latency_ms, "measured"),
        "predicted_mj": None if on.power_mw is None else share(latency.energy_mj, "predicted"),
    }


def _firmware(
    plan: Plan, workdir: Workdir, found: Network, model: bytes
) -> tuple[dict[str, Any], firmware.FirmwareError | None]:
    """The model as a program for the device, linked and emulated where tools are here."""
    folder, device = workdir.path / FIRMWARE, plan.device
    text = data.frontends.to_json(plan.frontend)
    runtime = plan.budget.runtime
    if device.startup is None or targets.engine(runtime).missing(device):
        runtime = "compiled"
    title = str(plan.facts.get("experiment", "model"))
    predicted = latency.instructions(found, runtime, device.core)
    ms_per_instruction = latency.latency_ms(found, device, runtime) / predicted
    facts: dict[str, Any] = {
        "folder": FIRMWARE,
        "device": device.name,
        "runtime": runtime,
        "provenance": device.provenance,
        "instructions": {"predicted": round(float(predicted)), "emulated": None},
    }
    delivered = _delivered(plan, found)
    try:
        if runtime == "compiled":
            built = compiler.compile_model(model, title, **delivered)
            facts["plan"] = _planned(built)
            facts["instructions"]["predicted"] = _on_core(built.instructions, found, device.core)
            if device.startup is None:
                alone = _model_c(built, device.core, folder)
                facts["instructions"]["emulated"] = alone.pop("emulated")
                return {**facts, **alone}, None
        sizes = firmware.write(
            model,
            device.name,
            folder,
            runtime=runtime,
            title=title,
            **delivered,
            frontend=text if firmware.can_hear(text) else None,
            listening=(workdir.path / LISTENING).read_text() if plan.listening else None,
        )
        facts["flash_bytes"] = {"predicted": sizes.flash_bytes, "linked": None}
        facts["ram_bytes"] = {"predicted": sizes.ram_bytes, "linked": None}
        facts["linking"] = "checked"
        if not firmware.has_compiler():
            facts["linking"] = "not checked: gcc-arm-none-eabi or make is not installed"
        else:
            fit = firmware.check(folder)
            facts["flash_bytes"]["linked"] = fit.flash_linked
            facts["ram_bytes"]["linked"] = fit.ram_linked
            if firmware.has_emulator():
                ran = firmware.run(folder)
                facts["instructions"]["emulated"] = ran.instructions
                facts["stack_bytes"] = ran.stack_bytes
                facts["differing_outputs"] = ran.differing_outputs
                if plan.listening:
                    facts["listening"] = _heard(plan, folder)
        facts["latency_ms"] = {
            kind: None if n is None else n * ms_per_instruction
            for kind, n in facts["instructions"].items()
        }
        differing = facts.get("listening", {}).get("differing", 0)
        if facts.get("differing_outputs") or differing:
            raise firmware.FirmwareError("outputs on the core are not those of the interpreter")
    except firmware.FirmwareError as error:
        return {**facts, "error": str(error)}, error
    return facts, None


def _heard(plan: Plan, folder: pathlib.Path) -> dict[str, object]:
    """What a few seconds of a stream take of the core, and in how much it differs from here."""
    stream = listening.streams.of_split(plan.dataset, "validation", EMULATED_MINUTES, plan.seed)
    heard = firmware.listen(folder, [stream.samples])
    return {
        "seconds": heard.seconds,
        "instructions_per_second": heard.instructions_per_second,
        "core_share": heard.core_share,
        "differing": (heard.differing_outputs or 0) + (heard.differing_words or 0),
    }


def _delivered(plan: Plan, found: Network) -> dict[str, Any]:
    """Which layers of the delivered program go by rows, as arguments of the compiler.

    As ``micronets compile`` has it by default; where time is limited the fastest plan, which is
    what a budget times. Where that needs more memory than the limits leave, the fastest that fits.
    """
    timed = plan.budget.limits().keys() & {"latency_ms", "energy_mj"}
    return {"plan": "speed" if timed else "balanced", "ram": _room(plan, found)}


def _room(plan: Plan, found: Network) -> int:
    """Bytes of the arena that the limits leave, those of the least plan at least."""
    budget = dataclasses.replace(plan.budget, runtime="compiled")
    limit, least = budget.limits().get("sram_bytes"), least_arena_bytes(found)
    if limit is None:
        return plan.device.sram_bytes
    return max(least, int(limit) - budget.used(found)["sram_bytes"] + least)


def _planned(built: compiler.Compiled) -> dict[str, object]:
    """The plan of a program: which layers go by rows, and what lies where at every step."""
    manifest, files = built.manifest(), built.files()
    layers = zip(manifest["layers"], built.step_of_layer, strict=True)
    return {
        "arena_bytes": built.arena_bytes,
        "instructions": built.instructions,
        "front": [[point.ram_bytes, point.instructions] for point in built.front],
        "layers": [
            {"name": layer["name"], "rows": layer["rows"], "step": step} for layer, step in layers
        ],
        "memory": json.loads(files["memory.json"])["buffers"],
    }


def _model_c(built: compiler.Compiled, core: str, folder: pathlib.Path) -> dict[str, object]:
    """The model's C alone, for a device whose start-up nobody has written, and what it takes."""
    compiler.write(built, folder)
    emulated = None
    if firmware.has_compiler() and firmware.has_emulator():
        emulated = firmware.run(folder, core=core).instructions
    return {
        "flash_bytes": {
            "predicted": built.code_bytes + sum(built.constant_bytes),
            "linked": None,
        },
        "ram_bytes": {"predicted": built.arena_bytes, "linked": None},
        "linking": "left to your project",
        "emulated": emulated,
    }


# ---------------------------------------------------------------- parts of stages


def _loss(plan: Plan, recipe: recipes.Training, teacher: Teacher | None) -> losses.Loss:
    if teacher is None or not recipe.distillation:
        return plan.loss
    return losses.distilled(
        plan.loss, teacher, recipe.distillation, recipe.distillation_temperature
    )


def _keep(
    workdir: Workdir,
    display: Display,
    stage: str,
    state: object,
    record: dict[str, int | float],
    *,
    last: bool,
) -> None:
    # Metrics first: a record without its checkpoint is dropped on resuming, the other way round
    # it would be missing.
    workdir.log(stage, record)
    workdir.save(stage, int(record["epoch"]), state, last=last)
    display.epoch(stage, record)


def _validation(
    plan: Plan, logits: Callable[[training.State, Array], Array], state: training.State
) -> dict[str, float]:
    features, outputs = _validated(plan, logits, state)
    return training.validation(plan.loss, outputs, plan.dataset.validation.labels, features)


def _validation_loss(
    plan: Plan, logits: Callable[[training.State, Array], Array], state: training.State
) -> float:
    features, outputs = map(jnp.asarray, _validated(plan, logits, state))
    labels = jnp.asarray(plan.dataset.validation.labels)
    return float(plan.loss.value(outputs, labels, features))


def _validated(
    plan: Plan, logits: Callable[[training.State, Array], Array], state: training.State
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the validation examples, and the outputs for them."""
    features = data.split_features(plan.dataset, "validation", plan.frontend)
    return features, training.predict(logits, state, features)


def _clean_batches(plan: Plan, split: data.Split, count: int) -> Iterator[tuple[Array, Array]]:
    compute = jax.jit(plan.frontend)
    size = min(256, len(split))
    batches = split.batches(size, plan.seed, 0)
    for (clips, labels), _ in zip(batches, range(count), strict=False):
        yield compute(clips), jnp.asarray(labels)


def _calibration(plan: Plan) -> Iterator[Array]:
    for x, _ in _clean_batches(plan, plan.dataset.train, CALIBRATION_BATCHES):
        yield x


def _write_samples(
    workdir: Workdir, quantized: np.ndarray, labels: np.ndarray, outputs: np.ndarray
) -> None:
    buffer = io.BytesIO()
    few = slice(NUM_SAMPLES)
    np.savez(buffer, inputs=quantized[few], labels=labels[few], outputs=outputs[few])
    workdir.write("samples.npz", buffer.getvalue())


def _hardest(
    plan: Plan, workdir: Workdir, apply: Callable[..., Any], variables: training.Variables
) -> list[dict[str, Any]]:
    """Examples of the validation split with the highest losses, also as a list of files; none
    where outputs are no classes."""
    if not plan.loss.of_classes:
        return []
    features = data.split_features(plan.dataset, "validation", plan.frontend)
    logits = training.predict(apply, variables, features)
    hard = data.look.hardest(logits, plan.dataset.validation, plan.dataset.class_names)
    if hard:
        lines = [
            f"{'check' if one.suspicious else 'hard':5}  {one.loss:6.2f}  {one.label} taken for "
            f"{one.taken_for}  {one.file}\n"
            for one in hard
        ]
        workdir.write("hardest.txt", "".join(lines))
    return [dataclasses.asdict(one) for one in hard]


SHOWN_CLASSES, SHOWN_EACH = 12, 3
"""Classes of which the report shows examples, and how many of each; as many without classes."""


def _shown(plan: Plan) -> list[dict[str, str]]:
    """A few training examples of each class as PNG, as the network sees them."""
    from PIL import Image

    train, names = plan.dataset.train, plan.dataset.class_names[:SHOWN_CLASSES]
    if names:
        each = [np.flatnonzero(train.labels == label)[:SHOWN_EACH] for label in range(len(names))]
        positions = np.concatenate(each)
        shown_as = [names[label] for label in train.labels[positions]]
    else:
        positions = np.arange(min(SHOWN_CLASSES * SHOWN_EACH, len(train)))
        shown_as = ["training examples"] * len(positions)
    features = np.asarray(plan.frontend(train.take(positions)[0]), np.float32)
    cepstra = isinstance(plan.frontend, data.MFCC)
    if cepstra:  # the first coefficient, the loudness, has ten times the range of the others
        features = (features - features.mean(axis=(0, 1))) / (features.std(axis=(0, 1)) + 1e-6)
        features = np.clip(features, -2, 2)
    shown = []
    for name, values in zip(shown_as, features, strict=True):
        low, high = float(values.min()), float(values.max())
        levels = (255 * (values - low) / max(high - low, 1e-6)).astype(np.uint8)
        wide = levels[..., 0] if levels.shape[-1] == 1 else levels
        buffer = io.BytesIO()
        Image.fromarray(wide.T[::-1] if cepstra else wide).save(buffer, "PNG", optimize=True)
        png = base64.b64encode(buffer.getvalue()).decode()
        shown.append({"class": name, "png": png})
    return shown


def _by_kind(scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A metric's numbers for each kind of model; its tables for the int8 model alone."""
    return {
        name: {kind: row[name] for kind, row in scores.items()}
        if isinstance(value, float)
        else value
        for name, value in scores["int8"].items()
    }


def _widths(found: Network, largest: Network) -> list[dict[str, object]]:
    """Output channels of each convolution that has a width, beside the largest; None if removed."""
    present = {layer.name: layer.out_channels for layer in found}
    return [
        {
            "name": layer.name.removesuffix("_pointwise"),
            "found": present.get(layer.name),
            "largest": layer.out_channels,
        }
        for layer in largest
        if layer.kind == "conv"
    ]
