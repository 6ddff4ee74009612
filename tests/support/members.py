"""A process of a run of several, for test_hosts: what is learned of blobs, in a shared folder."""

import json
import os
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax import accelerators, console, hosts, recipes, search, supernet, training
from micronets_jax.budgets import Budget
from micronets_jax.spaces import DSCNN
from micronets_jax.workdir import Workdir
from support.learning import DATA, jittered

SPACE = DSCNN((9, 6, 1), num_classes=3, max_width=24, stem_kernel=(3, 3), strides=(2,))
SETTINGS = recipes.DNAS(epochs=2, batch_size=32, samples=2, warmup=0.0, bits=0)
RECIPE = recipes.Training(epochs=2, batch_size=32)


def learn(folder: pathlib.Path, resume: bool, dies: bool) -> None:
    """A search, a word of the first host, a training; the results as ``result.npz``."""
    mesh, row = accelerators.mesh(16, 2), accelerators.mesh(32)
    given = search.Problem(SPACE, Budget(mops=0.01), (DATA, DATA), jittered, jnp.asarray, 1, mesh)
    made = search.of(SETTINGS, given)
    with Workdir(folder, {"task": "blobs"}, resume) as place:
        began, before = place.restore("search", made.init(jax.random.key(0)))
        for state, record in search.run(made, before, SETTINGS, given):
            place.log("search", record)
            place.save("search", int(record["epoch"]), state)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
        said = hosts.from_first(lambda: f"by host {hosts.index()}")
        assert said == "by host 0"
        fresh = supernet.init(jax.random.key(0), SPACE.largest())
        first = training.init(fresh["params"], fresh["batch_stats"], RECIPE, 6)
        model = training.float_model(SPACE.largest())
        for trained, record in training.fit(model, first, DATA, jittered, RECIPE, seed=0, mesh=row):
            place.log("train", record)
            place.save("train", int(record["epoch"]), trained)
        _, kept = place.restore("train", first)
        states = accelerators.local((state, kept, trained))
        if hosts.first():
            np.savez(folder / "result.npz", *map(np.asarray, jax.tree.leaves(states)))
            meshes = [one and dict(one.shape) for one in (mesh, row)]
            print(json.dumps({"began": began, "meshes": meshes}))


if __name__ == "__main__":
    index, count, port, folder, resume, dies = sys.argv[1:]
    with hosts.abandoned():
        if count != "1":
            hosts.join(f"127.0.0.1:{port}", int(count), int(index))
        learn(pathlib.Path(folder), resume == "True", dies == "True")
        if hosts.count() > 1:
            with console.errors(ValueError, hosts.HostError), hosts.together(ValueError):
                if hosts.index() == 1:
                    raise ValueError("enough")
