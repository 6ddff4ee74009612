"""Several processes are one run: same numbers, one folder, one sentence where one is wrong."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import types
from typing import NamedTuple

import jax
import numpy as np
import pytest

from experiments import kws
from micronets_jax import accelerators, hosts

TESTS = pathlib.Path(__file__).parent


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(words, devices: int, **environment: str) -> subprocess.Popen:
    flags = "--xla_backend_optimization_level=0"  # most of these tests is compiling
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=TESTS.parent,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(TESTS),
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    said = [one.communicate(timeout=500) for one in processes]
    return [(one.returncode, *texts) for one, texts in zip(processes, said, strict=True)]


def learn(folder, count: int, devices: int, resume: bool = False, dies: int = -1):
    """What each of the members of a run has said, see support/members.py."""
    port = free_port()
    return ended(
        [
            start(["-m", "support.members", i, count, port, folder, resume, i == dies], devices)
            for i in range(count)
        ]
    )


def result(folder, count, devices, **changes):
    """What the first member says of a run, and the arrays that it found."""
    said = learn(folder, count, devices, **changes)
    if count == 1:
        assert said[0][0] == 0, said
    for index, (status, _, trouble) in enumerate(said if count > 1 else ()):
        sentence = "error: enough" if index == 1 else "error: host 1: enough"
        assert status == 2 and trouble.splitlines()[-1] == sentence, said
    with np.load(folder / "result.npz") as arrays:
        return json.loads(said[0][1].splitlines()[-1]), [arrays[name] for name in arrays]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return result(tmp_path_factory.mktemp("one") / "run", 1, 1)[1]


def gap(some, others) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


@pytest.mark.slow
def test_two_hosts_one_of_which_is_killed_and_started_again_end_as_one(tmp_path, alone):
    folder = tmp_path / "run"
    (first, _, trouble), (second, _, _) = learn(folder, 2, 2, dies=1)
    assert second == -9 and first != 0 and "start all again, with --resume" in trouble
    facts, found = result(folder, 2, 2, resume=True)
    assert facts == {"began": 1, "meshes": [{"data": 2, "arch": 2}, {"data": 4, "arch": 1}]}
    assert gap(found, alone) < 1e-3


@pytest.mark.slow
def test_four_hosts_compute_what_one_computes(tmp_path, alone):
    """And what one says to be wrong ends all."""
    facts, found = result(tmp_path / "run", 4, 1)
    assert facts["meshes"] == [{"data": 2, "arch": 2}, {"data": 4, "arch": 1}]
    assert gap(found, alone) < 1e-3


# ---------------------------------------------------------------- one process


def test_alone_everything_is_done_at_once(monkeypatch):
    for name in (hosts.ADDRESS, *hosts.SLICES):
        monkeypatch.delenv(name, raising=False)
    hosts.join(None)
    assert not jax.distributed.is_initialized()
    assert (hosts.count(), hosts.index(), hosts.first()) == (1, 0, True)
    assert hosts.exchange("a") == ["a"] and hosts.from_first(lambda: "b") == "b"
    with pytest.raises(OSError, match="c"), hosts.abandoned(), hosts.together(OSError):
        raise OSError("c")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((None, 2), "add --coordinator HOST:PORT of process 0"),
        (("here", 2, 1), "coordinator=here: give HOST:PORT"),
        (("h:99999", 2, 1), "coordinator=h:99999: give HOST:PORT"),
        (("h:1", 2, 2), "process-id=2: give 0 to 1, for there are 2 processes"),
        (("h:1", 2, -1), "process-id=-1: give 0 to 1"),
        (("h:1", 0, 0), "num-processes=0: give 1 or more"),
        (("h:1", 2, 1, 0.0), "join-seconds=0: give more than 0"),
        (("h:1", None, 1), None),
        ((hosts.AUTO,), "coordinator=auto: no TPU pod, SLURM, Open MPI or Kubernetes says"),
    ],
)
def test_what_cannot_be_joined_is_a_sentence(given, says, monkeypatch):
    """Port 1 answers nobody."""
    if says is None:
        given, says = ("127.0.0.1:1", None, 1, 0.3), "127.0.0.1:1 cannot be reached for 0.3 s"
    monkeypatch.setattr(jax.distributed, "initialize", unknown)
    with pytest.raises(hosts.HostError, match=says):
        hosts.join(*given)


def unknown(*_, **__):
    raise ValueError("coordinator_address should be defined.")


def test_the_environment_stands_for_options(monkeypatch):
    given = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *some, **_: given.append(some))
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    hosts.join(None)
    monkeypatch.setenv(hosts.ADDRESS, "h:1")
    monkeypatch.setenv(hosts.COUNT, "3")
    monkeypatch.setenv(hosts.INDEX, "0")
    hosts.join(None)
    assert given == [(None, None, None), ("h:1", 3, 0)]
    monkeypatch.setenv(hosts.COUNT, "some")
    with pytest.raises(hosts.HostError, match="JAX_NUM_PROCESSES='some' in the environment"):
        hosts.join(None)


@pytest.mark.slow
def test_hosts_that_do_not_come_are_waited_for_no_longer_than_asked(tmp_path):
    words = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2, "--process-id", 0]
    words += ["--join-seconds", 1, "--preset", "tiny", "--workdir", tmp_path / "run"]
    ((status, _, says),) = ended([start(["-m", "experiments.kws", *words], 1)])
    assert status == 2 and "after 1 s not all hosts are there" in says and "Trace" not in says


class Device(NamedTuple):
    process_index: int
    id: int
    device_kind: str = "made up"


@pytest.mark.slow
def test_slurm_tells_processes_of_each_other():
    says = "import jax\nfrom micronets_jax import hosts\nhosts.join(hosts.AUTO)\n"
    says += "print(hosts.exchange(f'host {hosts.index()}'), len(jax.devices()))"
    job = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    processes = [
        start(["-c", says], 1, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), **job) for i in range(2)
    ]
    for status, said, trouble in ended(processes):
        assert status == 0, trouble
        assert said.splitlines()[-1] == "['host 0', 'host 1'] 2"


def devices(*processes):
    return [Device(process, -number) for number, process in enumerate(processes)]


def test_each_host_reads_the_examples_of_its_devices(monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)
    for index, arch, share in [(0, 1, slice(0, 8)), (1, 1, slice(8, 16)), (1, 4, slice(0, 16))]:
        monkeypatch.setattr(hosts, "index", lambda index=index: index)
        grid = np.empty(4, object)
        grid[:] = devices(0, 0, 1, 1)
        grid = grid.reshape(-1, arch)
        mesh = types.SimpleNamespace(devices=grid)
        assert accelerators.share(mesh, 16) == share
    assert accelerators.share(None, 16) == slice(None)


def test_devices_of_several_hosts_must_divide_the_batch(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: devices(1, 0, 1, 0))
    monkeypatch.setattr(hosts, "count", lambda: 2)
    with pytest.raises(ValueError, match="the 4 devices of 2 hosts do not divide 5 examples by 2"):
        accelerators.mesh(5, 2)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({}, None),
        ({"epochs": 7}, "different options: train.epochs is 5 on host 0, 7 on host 1"),
        ({"seed": 3}, "different options: seed is 0 on host 0, 3 on host 1; start all of them by"),
        ({"data": "other"}, "different data: the fingerprint is same on host 0, other on host 1"),
        (
            {"more": "budget.mops-2"},
            "networks: a single one on host 0, budget.mops-1, budget.mops-2 on host 1",
        ),
    ],
)
def test_hosts_whose_options_or_data_differ_do_not_begin(there, says, monkeypatch):
    def exchange(text):
        networks = json.loads(text)
        other = networks[""]
        assert "process_id" not in other["options"]
        other["data"] = there.get("data", other["data"])
        other["options"]["seed"] = there.get("seed", 0)
        other["options"]["train"]["epochs"] = there.get("epochs", 5)
        if "more" in there:
            networks = {"budget.mops-1": other, there["more"]: other}
        return [text, json.dumps(networks)]

    monkeypatch.setattr(hosts, "exchange", exchange)
    plan = types.SimpleNamespace(dataset=types.SimpleNamespace(fingerprint="same"))
    expected = pytest.raises(hosts.HostError, match=says) if says else contextlib.nullcontext()
    with expected:
        options = kws.KWS.parse(["--preset", "paper", "--train.epochs", "5"])
        kws.KWS.agree({"": plan}, {"": options})
