"""The run folder: nothing half-written is taken for whole, nothing of another run is touched."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import experiment_cli, files, workdir
from micronets_jax.workdir import Workdir, WorkdirError

CONFIGURATION = {"seed": 0, "search": {"epochs": 3}}


def test_a_state_comes_back_and_later_metrics_are_forgotten(tmp_path):
    state = {"w": jnp.arange(3.0), "step": jnp.zeros((), jnp.int32)}
    with Workdir(tmp_path / "run", CONFIGURATION, resume=False) as place:
        assert place.restore("search", state)[0] == 0
        for epoch in (1, 2):
            place.log("search", {"epoch": epoch, "loss": 1.0 / epoch})
            place.save("search", epoch, {"w": state["w"] * epoch, "step": state["step"] + epoch})
        place.log("search", {"epoch": 3, "loss": 0.1})  # killed before its checkpoint
    with open(tmp_path / "run" / workdir.METRICS, "a") as file:
        file.write('{"stage": "sea')  # and while writing
    with Workdir(tmp_path / "run", CONFIGURATION, resume=True) as place:
        epoch, restored = place.restore("search", state)
        assert epoch == 2
        np.testing.assert_array_equal(restored["w"], [0.0, 2.0, 4.0])
        records = files.read_records(place.path / workdir.METRICS)
        assert [record["epoch"] for record in records] == [1, 2]


def test_checkpoints_are_some_time_apart_but_the_last_is_kept(tmp_path, monkeypatch):
    clock = iter([0.0, 4.0, 11.0, 12.0, 15.0, 16.0]).__next__
    monkeypatch.setattr(workdir, "time", types.SimpleNamespace(monotonic=clock))
    state = {"w": jnp.arange(3.0)}
    with Workdir(tmp_path, CONFIGURATION, resume=False, seconds=10.0) as place:
        place.restore("search", state)  # at 0 seconds
        kept = []
        for epoch in range(1, 5):  # at 4, 11 (kept at 12) and 15 seconds, then whenever it is
            place.save("search", epoch, state, last=epoch == 4)
            kept.append([path.name for path in (tmp_path / "checkpoints/search").iterdir()])
    assert kept == [[], ["2"], ["2"], ["4"]]


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    state = {"w": jnp.arange(3.0)}
    with Workdir(tmp_path, CONFIGURATION, resume=False) as place:
        place.save("train", 1, state)
    half = tmp_path / workdir.CHECKPOINTS / "train" / "2.orbax-checkpoint-tmp-1"
    half.mkdir()
    with Workdir(tmp_path, CONFIGURATION, resume=True) as place:
        assert place.restore("train", state)[0] == 1


def test_another_runs_folder_is_refused_and_left_alone(tmp_path):
    with Workdir(tmp_path, CONFIGURATION, resume=False):
        pass
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(WorkdirError, match="add --resume"):
        Workdir(tmp_path, CONFIGURATION, resume=False)
    changed = {"seed": 0, "search": {"epochs": 4}}
    with pytest.raises(WorkdirError, match=r"search\.epochs was 3, now 4"):
        Workdir(tmp_path, changed, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_whose_limits_meant_something_else_is_refused(tmp_path):
    """Until limits on memory counted the runtime's reserve, runs did not record what they meant."""
    with Workdir(tmp_path, CONFIGURATION, resume=False):
        pass
    now = {**CONFIGURATION, "limits_on_memory": experiment_cli.LIMITS_ON_MEMORY}
    says = r"limits_on_memory was not recorded, now all that the firmware takes, its reserve"
    with pytest.raises(WorkdirError, match=says):
        Workdir(tmp_path, now, resume=True)


def test_folders_that_are_no_runs_are_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(WorkdirError, match=r"letter\.txt"):
        Workdir(tmp_path, CONFIGURATION, resume=False)
    with pytest.raises(WorkdirError, match="is a file"):
        Workdir(tmp_path / "letter.txt", CONFIGURATION, resume=False)


def test_a_folder_that_another_host_does_not_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir.hosts, "first", lambda: False)
    with pytest.raises(WorkdirError, match="does not see what host 0 has written there; give a"):
        Workdir(tmp_path / "run", CONFIGURATION, resume=False)
    assert not (tmp_path / "run").exists()


def test_hosts_but_the_first_write_nothing_beside_checkpoints(tmp_path, monkeypatch):
    with Workdir(tmp_path, CONFIGURATION, resume=False):
        pass
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(workdir.hosts, "first", lambda: False)
    with Workdir(tmp_path, {}, resume=False) as place:
        place.write("model.tflite", b"")
        place.log("search", {"epoch": 1, "loss": 1.0})
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_noticed_before_a_checkpoint_begins(tmp_path, monkeypatch):
    with Workdir(tmp_path, CONFIGURATION, resume=False) as place:
        state = {"w": jnp.arange(3.0)}
        place.save("search", 1, state)
        usage = workdir.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(OSError, match="No space left on device"):
            place.save("search", 2, state)
        monkeypatch.undo()
        assert place.restore("search", state)[0] == 1
