"""Sweeps: what is tried and where, what is refused, and that dying machines change no result."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks import sweep_trial
from experiments import kws
from experiments import sweep as command
from micronets_jax import cost, files, network, sweep
from micronets_jax.report import sweep as page
from micronets_jax.sweep import Folder, SweepError

ROOT = pathlib.Path(__file__).parents[1]
STUB = "benchmarks.sweep_trial"
parse = kws.KWS.parse


def test_a_grid_tries_each_value_with_each():
    axes = sweep.grid(["seed=0,1", "--budget.mops=0.8,1.2", "space.max_width=40"])
    tried = sweep.trials(parse, ["--preset", "tiny"], axes)
    assert len({trial.name for trial in tried}) == len(tried) == 4
    assert tried[1].name == "seed=0,budget.mops=1.2,space.max-width=40"
    assert tried[1].settings == {"seed": 0, "budget.mops": 1.2, "space.max-width": 40}
    options = parse(tried[1].words)
    tiny = kws.PRESETS["tiny"]
    assert options == dataclasses.replace(
        tiny,
        budget=dataclasses.replace(tiny.budget, mops=1.2),
        space=dataclasses.replace(tiny.space, max_width=40),
    )


def test_flags_tuples_and_options_of_another_method_are_swept():
    axes = sweep.grid(["train.from-supernet=true,false", "augmentation.snr-db=0 20"])
    on, off = sweep.trials(parse, ["--train.from-supernet"], axes)
    assert parse(on.words).train.from_supernet and not parse(off.words).train.from_supernet
    assert parse(on.words).augmentation.snr_db == (0.0, 20.0)
    assert on.settings["augmentation.snr-db"] == "0.0 20.0"
    (one,) = sweep.trials(parse, [], sweep.grid(["method=tinynas", "search.population=30"]))
    assert vars(parse(one.words).search)["population"] == 30


def test_draws_depend_on_seed_and_number_alone():
    texts = ["train.learning-rate=log:0.001:0.1", "search.samples=int:1:4", "seed=uniform:0:2"]
    few, many = sweep.draws(texts, 3, 0), sweep.draws(texts[:2], 40, 0)
    assert [{**draw, "seed": ""} for draw in few] == [{**draw, "seed": ""} for draw in many[:3]]
    assert few != sweep.draws(texts, 3, 1)
    rates = sorted(float(draw["train.learning-rate"]) for draw in many)
    assert 0.001 <= rates[0] < rates[19] < 0.03 < rates[-1] <= 0.1  # half lie below 0.01
    assert {draw["search.samples"] for draw in many} == {"1", "2", "3", "4"}
    tried = sweep.trials(parse, [], sweep.grid(["seed=0,1"]), sweep.draws(texts[:1], 2, 0))
    assert [trial.settings["seed"] for trial in tried] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("grid", "sample", "fixed", "part"),
    [
        (["train.stps=1,2"], [], [], "no option train.stps; did you mean train.steps"),
        (["train=1"], [], [], "no option train; did you mean train.steps"),
        (["search.population=3"], [], [], "no option search.population"),
        (["seed=0,x"], [], [], "seed=x: Error parsing --seed: invalid literal"),
        (["search.samples=-3"], [], [], "samples=-3: must be at least 1"),
        (["seed"], [], [], "'seed': give OPTION=VALUES"),
        (["seed=1,,2"], [], [], "a value is empty"),
        (["seed=0", "seed=1"], [], [], "seed is there twice"),
        (["seed=0,0"], [], [], "two trials with one folder: seed=0 and seed=0"),
        (["seed=0,00"], [], [], "two trials are the same run: seed=0 and seed=00"),
        (["workdir=a,b"], [], [], "workdir cannot be swept"),
        (["firmware=yes"], [], [], "firmware=yes: give true or false"),
        (["seed=0"], [], ["--workdir=x"], "--workdir=x: a sweep gives each trial its own"),
        (["seed=0"], [], ["--sed", "1"], "the options: "),
        (["seed=0"], ["seed=1,2"], [], "seed is in --grid and in --sample"),
        ([], ["teacher=log:0:1"], [], "give log:LOW:HIGH"),
        ([], ["teacher=uniform:2:1"], [], "LOW below HIGH"),
        ([], ["teacher=normal:0:1"], [], "give log:LOW:HIGH"),
        ([], ["teacher=int:0.5:1"], [], "give log:LOW:HIGH"),
    ],
)
def test_what_cannot_be_swept_is_said_in_a_sentence(grid, sample, fixed, part):
    with pytest.raises(SweepError) as raised:
        sweep.trials(parse, fixed, sweep.grid(grid), sweep.draws(sample, 1, 0))
    assert part in str(raised.value) and "\n" not in str(raised.value)


def test_both_ways_in_which_tyro_draws_a_box_are_read():
    inside = "Error parsing --seed: no number: 'x' "
    round_ = f"╭─ Value error ─────╮\n│ {inside} │\n│ ─────── │\n│ For full helptext │\n╰──╯"
    plain = f" Value error \n ------ \n  {inside} \n  -------\n  For full helptext\n"
    assert sweep._sentence(round_) == sweep._sentence(plain) == inside.strip()


def test_long_names_are_cut_and_stay_apart():
    words = " ".join(f"word{i}" for i in range(60))
    axes = sweep.grid([f"words={words} yes,{words} no"])
    names = [trial.name for trial in sweep.trials(parse, ["--data", "x"], axes)]
    assert len(set(names)) == 2 and max(map(len, names)) == sweep.LONGEST_NAME
    slashes = sweep.trials(parse, [], sweep.grid(["data=a/b"]))
    assert slashes[0].name == "data=a-b" and slashes[0].settings == {"data": "a/b"}
    with pytest.raises(SweepError, match=r"data=a/b and data=a-b would both lie in trials/data"):
        sweep.trials(parse, [], sweep.grid(["data=a/b,a-b"]))


def test_a_folder_keeps_its_sweep_and_takes_more_trials(tmp_path):
    def tried(text):
        return sweep.trials(sweep_trial.NOTHING.parse, [], sweep.grid([text]))

    path = tmp_path / "sweep"
    assert sweep.check(path, STUB, [], resume=False) == {}
    sweep.create(path, STUB, [], tried("seed=0,1"), resume=False)
    with pytest.raises(SweepError, match="add --resume"):
        sweep.check(path, STUB, [], resume=False)
    with pytest.raises(SweepError, match=r"its words were \[\], now \['--teacher', '1'\]"):
        sweep.check(path, STUB, ["--teacher", "1"], resume=True)
    with pytest.raises(SweepError, match="its experiment were"):
        sweep.check(path, "experiments.kws", [], resume=True)
    folder = sweep.create(path, STUB, [], tried("seed=1,2"), resume=True)
    assert [row["trial"] for row in sweep.rows(folder)] == ["seed=0", "seed=1", "seed=2"]
    (path / sweep.SWEEP).write_text('{"exp')
    with pytest.raises(SweepError, match="is damaged"):
        sweep.check(path, STUB, [], resume=True)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(SweepError, match="holds files that are not a sweep's, such as"):
        sweep.check(tmp_path, STUB, [], resume=True)
    with pytest.raises(SweepError, match="is a file"):
        sweep.check(tmp_path / "letter.txt", STUB, [], resume=False)


# ---------------------------------------------------------------- one trial


def stub(*words: str) -> list[str]:
    return [sys.executable, "-m", STUB, *words]


def created(path: pathlib.Path, *texts: str) -> Folder:
    tried = sweep.trials(sweep_trial.NOTHING.parse, [], sweep.grid(texts))
    return sweep.create(path, STUB, [], tried, resume=False)


def results(path: pathlib.Path) -> dict[str, str]:
    """What decides a trial's result, without the time that it took."""
    metrics = (path / files.METRICS).read_text()
    summary = json.loads((path / files.SUMMARY).read_text())
    for time_taken in ("seconds", "from", "to"):
        del summary[time_taken]
    return {"metrics": metrics, "summary": json.dumps(summary)}


def test_a_trial_that_is_killed_goes_on_where_it_was(tmp_path):
    words = stub("--train.epochs=6", "--train.learning-rate=0.01")
    folder = created(tmp_path / "killed", "seed=0")
    seen = []

    def until_the_third(record):
        seen.append((record["stage"], record["epoch"]))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.supervise(folder, "seed=0", words, until_the_third, place=str(ROOT))
    before = len(files.read_records(folder.run("seed=0") / files.METRICS))
    assert folder.ended("seed=0")[0] == "begun" or before == 7
    again = []
    status = sweep.supervise(folder, "seed=0", words, again.append, place=str(ROOT))
    assert status == "finished" and folder.ended("seed=0") == ("finished", "")
    assert [r["epoch"] for r in again if r["stage"] == "train"] == [1, 2, 3, 4, 5, 6]
    whole = created(tmp_path / "whole", "seed=0")
    sweep.supervise(whole, "seed=0", words, lambda _: None, place=str(ROOT))
    assert results(folder.run("seed=0")) == results(whole.run("seed=0"))


def test_a_trial_says_why_it_failed_and_a_killed_one_is_worth_another_attempt(tmp_path):
    folder = created(tmp_path / "sweep", "seed=0,1")
    failing = stub("--fail", "no such words")
    assert sweep.supervise(folder, "seed=0", failing, print, place=str(ROOT)) == "failed"
    assert folder.ended("seed=0") == ("failed", "status 2: error: no such words")
    dying = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(sweep.WorkerError, match="ended by SIGKILL"):
        sweep.supervise(folder, "seed=1", dying, print)
    assert folder.ended("seed=1") == ("failed", "ended by SIGKILL")


def test_two_processes_never_write_to_one_trial(tmp_path):
    """The process of a worker that was killed with no chance to clean up dies with it; where one
    does not, the next attempt waits for it."""
    folder = created(tmp_path / "sweep", "seed=0")
    with open(folder.log("seed=0"), "ab") as log:
        sleeper = subprocess.Popen(["sleep", "60"], stdout=log)
        sweep._lock(log, 0.0)
    try:
        with pytest.raises(sweep.WorkerError, match="is held by a process that does not end"):
            sweep.supervise(folder, "seed=0", ["true"], print, patience=0.3)
        threading.Timer(0.5, sleeper.kill).start()
        assert sweep.supervise(folder, "seed=0", ["true"], print, patience=60.0) == "failed"
        assert folder.ended("seed=0") == ("failed", "status 0: it said nothing")
    finally:
        sleeper.kill()
        sleeper.wait()


# ---------------------------------------------------------------- what came out


def finished(folder: Folder, name: str, accuracy: float, macs: int, flash: int) -> None:
    run = folder.run(name)
    run.mkdir()
    records = [
        {"stage": "train", "epoch": e, "loss": 1.0, "accuracy": accuracy * e / 3,
         "validation_accuracy": accuracy * e / 3}
        for e in (1, 2, 3)
    ]  # fmt: skip
    files.write(run / files.METRICS, "".join(json.dumps(r) + "\n" for r in records))
    summary = {
        "metric": "accuracy",
        "accuracy": {"float": accuracy, "int8": accuracy - 0.01, "tflm": accuracy - 0.02},
        "limits": {"flash_bytes": {"used": flash}},
        "network": {"macs": macs},
        "seconds": {"train": 2.5, "search": 1.0},
    }
    files.write(run / files.SUMMARY, json.dumps(summary))


def test_table_front_and_curves_are_those_of_the_folders(tmp_path):
    from pyarrow import parquet

    folder = created(tmp_path / "sweep", "seed=0,1", "teacher=1.5,2,3")
    finished(folder, "seed=0,teacher=1.5", 0.80, 1000, 500)
    finished(folder, "seed=1,teacher=1.5", 0.84, 1200, 400)
    finished(folder, "seed=0,teacher=2", 0.82, 1300, 300)  # dearer than the second, and worse
    finished(folder, "seed=1,teacher=2", 0.90, 2000, 900)
    folder.end("seed=0,teacher=3", "failed", "status 2: error: <no> data")
    rows = {row["trial"]: row for row in sweep.write(folder)}
    table = parquet.read_table(folder.path / sweep.TABLE).to_pylist()
    assert [row["trial"] for row in table] == list(rows) and len(table) == 6
    first = table[0]
    assert (first["seed"], first["teacher"], first["int8"]) == (0, 1.5, pytest.approx(0.79))
    assert (first["macs"], first["flash_bytes"], first["seconds"]) == (1000, 500, 3.5)
    assert [record["validation_accuracy"] for record in first["epochs"]][-1] == pytest.approx(0.8)
    waiting = table[-1]
    assert waiting["status"] == "waiting" and waiting["int8"] is None and waiting["seed"] == 1
    ranked = list(rows.values())
    assert [row["macs"] for row in page._front(ranked, "macs")] == [1000, 1200, 2000]
    assert [row["flash_bytes"] for row in page._front(ranked, "flash_bytes")] == [300, 400, 900]
    text = (folder.path / sweep.REPORT).read_text()
    assert "6 trials, 4 finished" in text and "&lt;no&gt; data" in text
    assert text.index(">seed=1,teacher=2<") < text.index(">seed=0,teacher=1.5<")
    assert "trials/seed%3D1%2Cteacher%3D2/report.html" in text
    assert "85.0%" in text and "±\u00a04.0\u00a0%" in text  # mean and error of 81 and 89
    assert "100%</text>" in text and "110%</text>" not in text
    assert text.count('class="other"') == 8  # four finished trials by two costs
    assert "Validation accuracy while training" in text and "Accuracy while searching" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_sweep_without_results_has_a_page(tmp_path):
    folder = created(tmp_path / "sweep", "seed=0")
    (row,) = sweep.write(folder)
    assert row["status"] == "waiting"
    assert "1 trials, 0 finished" in (folder.path / sweep.REPORT).read_text()


# ---------------------------------------------------------------- the command


command_line = [sys.executable, "-m", "experiments.sweep"]


def swept(*words, **environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command_line, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nothing", "--grid", "seed=0"], "experiment=nothing: there is no module"),
        (["my.frogs", "--grid", "seed=0"], "there is no module my"),
        (["reference", "--grid", "seed=0"], "holds 0 experiments"),
        ([STUB, "--grid", "sed=0"], "there is no option sed; did you mean seed"),
        ([STUB, "--trials", "3"], "only --sample draws"),
        ([STUB, "--sample", "seed=1,2", "--trials", "0"], "trials=0"),
        ([STUB, "--resources", "TPU"], "give NAME=NUMBER"),
        ([STUB, "--cpus", "-1"], "CPU=-1 of a trial"),
        ([STUB, "--retries", "-1"], "retries=-1"),
        ([STUB, "--asha-factor", "1"], "asha-factor=1"),
        ([STUB, "--callbacks", "wandb"], "wandb is not installed; run pip install wandb"),
        ([STUB, "--address", "ray://127.0.0.1:9"], "no cluster answers"),
        ([STUB, "--address", "127.0.0.1:9"], "no cluster answers"),
    ],
)
def test_mistakes_end_before_anything_is_written_or_started(words, part, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*words, "--workdir", str(tmp_path / "out")])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and part in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- with Ray


def waited(condition, seconds: float = 240.0):
    """What a condition gives once it is true; the machine may be slow."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


def processes_of(folder: Folder) -> dict[str, int]:
    """Trials that run now, with the process that watches over each."""
    found = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            status = (entry / "status").read_text()
        except OSError:
            continue  # it ended in between
        for word in words:
            if word.startswith(f"--workdir={folder.path}/trials/"):
                parent = int(status.partition("PPid:")[2].split()[0])
                found[word.rpartition("/")[2]] = parent
    return found


def epochs(folder: Folder, name: str) -> int:
    path = folder.run(name) / files.METRICS
    return len(files.read_records(path)) if path.is_file() else 0


@pytest.mark.slow
def test_workers_a_node_and_the_head_die_and_nothing_is_lost(tmp_path):
    """A cluster of two nodes with one core each: a worker is killed, then a node, then the command
    and the cluster; continued elsewhere, the sweep ends as runs that nothing befell."""
    from ray.cluster_utils import Cluster

    words = [STUB, "--grid", "seed=0,1,2,3", "--workdir", str(tmp_path / "sweep")]
    fixed = ["--", "--search.epochs=2", "--train.epochs=8", "--train.learning-rate=0.4"]
    folder = Folder(tmp_path / "sweep")
    driver = None
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        driver = subprocess.Popen(
            [*command_line, *words, "--address", str(cluster.address), *fixed],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        name = waited(lambda: next((n for n in processes_of(folder) if epochs(folder, n) > 1), ""))
        os.kill(processes_of(folder)[name], signal.SIGKILL)
        waited(lambda: epochs(folder, name) > 4)
        cluster.remove_node(second, allow_graceful=False)
        waited(lambda: any(folder.ended(f"seed={s}")[0] == "finished" for s in range(4)))
    finally:
        if driver:
            driver.kill()
        cluster.shutdown()
    said, _ = driver.communicate()
    assert "died, will be continued" in said
    waited(lambda: not processes_of(folder))
    done = {row["trial"] for row in sweep.rows(folder) if row["status"] == "finished"}
    assert 0 < len(done) < 4
    kept = {name: (folder.run(name) / files.SUMMARY).stat().st_mtime_ns for name in done}

    again = swept(*words, "--resume", *fixed)
    assert again.returncode == 0, again.stderr + again.stdout
    assert f"4 trials, {len(done)} of them finished before" in again.stdout
    for name, changed in kept.items():
        assert (folder.run(name) / files.SUMMARY).stat().st_mtime_ns == changed
    table = {row["trial"]: row for row in sweep.rows(folder)}
    assert {row["status"] for row in table.values()} == {"finished"}
    repeated = 0
    for seed in range(4):
        alone = tmp_path / f"alone{seed}"
        options = [
            *fixed[1:3],
            "--train.learning-rate=0.001",
            f"--seed={seed}",
            f"--workdir={alone}",
        ]
        subprocess.run(stub(*options), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        assert results(folder.run(f"seed={seed}")) == results(alone)
        begun = [x for x in folder.log(f"seed={seed}").read_text().splitlines() if "epoch" in x]
        assert len(set(begun)) == 10
        repeated += len(begun) - 10
    assert repeated <= 4  # by a worker, two trials of a dying node or head at most each once


@pytest.mark.slow
def test_asha_stops_the_worse_and_failures_are_said(tmp_path):
    """Later trials are worse: their accuracy at each epoch is below that of those before."""
    words = ["--grid", "seed=30,20,10,0", "--asha", "--asha-factor", "2", "--cpus", os.cpu_count()]
    words += ["--workdir", tmp_path / "sweep", "--", "--train.epochs=4"]
    done = swept(STUB, *words)
    assert done.returncode == 0, done.stderr + done.stdout
    table = {row["trial"]: row for row in sweep.rows(Folder(tmp_path / "sweep"))}
    assert table["seed=30"]["status"] == "finished" and table["seed=0"]["status"] == "stopped"
    assert len(table["seed=0"]["epochs"]) < 5 and "int8" not in table["seed=0"]
    words = ["--grid", "fail=no-data,SIGKILL", "--retries", "1", "--workdir", tmp_path / "failing"]
    done = swept(STUB, *words)
    assert done.returncode == 1 and "2 trials did not finish" in done.stderr
    assert "fail=no-data: status 2: error: no-data" in done.stdout
    assert "fail=SIGKILL: died, will be continued" in done.stdout
    assert "fail=SIGKILL: died 2 times, at last: " in done.stdout
    assert "ended by SIGKILL" in done.stdout
    done = swept(STUB, "--gpus", "64", "--workdir", tmp_path / "none")
    assert done.returncode == 2 and "a trial takes CPU=1 GPU=64, and this machine" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_sweep_of_real_runs(tmp_path):
    tiny = ["--preset=tiny", "--search.epochs=1", "--search.trials=1", "--no-firmware"]
    tiny += ["--train.steps=20", "--quantize.steps=5"]
    words = ["--sample", "train.learning-rate=log:0.001:0.1", "--workdir", tmp_path / "sweep"]
    done = swept("kws", *words, "--", *tiny, MICRONETS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr + done.stdout
    (row,) = sweep.rows(Folder(tmp_path / "sweep"))
    assert row["status"] == "finished" and 0.001 <= row["train.learning-rate"] <= 0.1
    run = Folder(tmp_path / "sweep").run(row["trial"])
    found = network.from_json((run / "network.json").read_text())
    assert row["macs"] == cost.macs(found) and 0 <= row["int8"] <= 1
    assert row["flash_bytes"] > cost.weights(found)  # a byte each, and kernels and start-up
    assert {record["stage"] for record in row["epochs"]} == {"search", "train", "quantize"}
