"""The folder of one run: its configuration, checkpoints, metrics and results.

Invariant: a file or checkpoint that is there is whole, and belongs to the configuration beside it.

Where several hosts run together they share the folder: all take part in checkpoints, the first one
writes everything else.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from micronets_jax import files, hosts
from micronets_jax.files import CONFIGURATION, METRICS

CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"

RESERVE_BYTES = 4_000_000
"""Room on the disk that checkpoints leave for metrics and results."""


class WorkdirError(ValueError):
    """A folder that cannot be used as asked; the message says why and what to do."""


class Workdir:
    """An opened run folder.

    Args:
        path: made if absent.
        configuration: everything that decides the run's result, as JSON data.
        resume: continue the run that the folder holds.
        seconds: least between two checkpoints of a stage; the last one is always kept.

    Raises:
        WorkdirError: the folder holds something else, or a run of another configuration, or a run
            while ``resume`` is False. Nothing in it is changed then. Or this host does not see what
            the first one has written.
        HostError: as much on another host.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        configuration: Mapping[str, object],
        resume: bool,
        seconds: float = 0.0,
    ) -> None:
        self.path = pathlib.Path(path).absolute()
        with hosts.together(WorkdirError, OSError):
            if hosts.first():
                check(self.path, configuration, resume)
                self.path.mkdir(parents=True, exist_ok=True)
                self._discard_temporary()
                self.write(CONFIGURATION, json.dumps(configuration, indent=2) + "\n")
        with hosts.together(WorkdirError):
            if not (self.path / CONFIGURATION).is_file():
                raise WorkdirError(
                    f"workdir={path}: this host does not see what host 0 has written there; give a "
                    "folder on a file system that all hosts share"
                )
        self._seconds = seconds
        self._safe: dict[str, float] = {}  # by stage, when its work was last on the disk
        self._managers: dict[str, Any] = {}
        self._events: Any = None

    def __enter__(self) -> Workdir:
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self._managers.values():
            manager.close()
        if self._events is not None:
            self._events.close()

    def write(self, name: str, content: str | bytes) -> pathlib.Path:
        """Write a file whole or not at all: under a temporary name first, then renamed."""
        path = self.path / name
        return files.write(path, content) if hosts.first() else path

    def save(self, stage: str, epoch: int, state: object, last: bool = True) -> None:
        """Keep ``state`` as it is after an epoch of a stage, instead of the one before.

        Where it is not the ``last`` and too soon after the one before, or after the stage was
        restored, nothing happens.

        Args:
            stage: of the run.
            epoch: after which the state is.
            state: a pytree of arrays.
            last: whether the stage has ended, so that the state must be kept.
        """
        from orbax import checkpoint

        due = last or time.monotonic() - self._safe.get(stage, -math.inf) >= self._seconds
        if hosts.from_first(lambda: "due" if due else "") != "due":
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        self._require_space(2 * size)  # the one before goes only when this one is whole
        self._manager(stage).save(epoch, args=checkpoint.args.StandardSave(state))
        self._safe[stage] = time.monotonic()

    def restore(self, stage: str, like: Any) -> tuple[int, Any]:
        """The epochs done and the state after them, or ``(0, like)`` where nothing is kept yet.

        Metrics logged by epochs that have to be run again are dropped.

        Raises:
            WorkdirError: the checkpoint cannot be read.
        """
        from orbax import checkpoint

        manager = self._manager(stage)
        self._safe[stage] = time.monotonic()
        epoch = manager.latest_step()
        self._forget_metrics(stage, epoch or 0)
        if epoch is None:
            return 0, like
        abstract = jax.tree.map(checkpoint.utils.to_shape_dtype_struct, like)
        try:
            state = manager.restore(epoch, args=checkpoint.args.StandardRestore(abstract))
        except (ValueError, KeyError, OSError) as error:
            raise WorkdirError(
                f"the checkpoint in {self.path / CHECKPOINTS / stage} cannot be read "
                f"({str(error).splitlines()[0]}); delete that folder to run the stage again, "
                "or give another --workdir"
            ) from error
        return epoch, state

    def save_weights(self, weights: object) -> None:
        """Final weights, as one Orbax checkpoint."""
        from orbax import checkpoint

        _quiet()
        with checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(self.path / WEIGHTS, jax.tree.map(np.asarray, weights), force=True)

    def log(self, stage: str, record: Mapping[str, int | float]) -> None:
        """Append one epoch's metrics to ``metrics.jsonl`` and to the TensorBoard events."""
        if not hosts.first():
            return
        self._require_space(0)
        with open(self.path / METRICS, "a") as file:
            file.write(json.dumps({"stage": stage, **record}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._events is None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self.path))
        for name, value in record.items():
            if name != "epoch":
                self._events.add_scalar(f"{stage}/{name}", value, int(record["epoch"]))

    def _manager(self, stage: str) -> Any:
        from orbax import checkpoint

        if stage not in self._managers:
            _quiet()
            options = checkpoint.CheckpointManagerOptions(
                max_to_keep=1, enable_async_checkpointing=False
            )
            folder = self.path / CHECKPOINTS / stage
            self._managers[stage] = checkpoint.CheckpointManager(folder, options=options)
        return self._managers[stage]

    def _require_space(self, size: int) -> None:
        # Orbax and tensorboardX write in threads, whose errors end as tracebacks, if at all.
        if shutil.disk_usage(self.path).free < size + RESERVE_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))

    def _forget_metrics(self, stage: str, epoch: int) -> None:
        path = self.path / METRICS
        if not (hosts.first() and path.exists()):
            return
        kept = [
            json.dumps(record) + "\n"
            for record in files.read_records(path)
            if record["stage"] != stage or record["epoch"] <= epoch
        ]
        self.write(METRICS, "".join(kept))

    def _discard_temporary(self) -> None:
        for leftover in self.path.glob(f"{files.TEMPORARY}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def check(
    path: pathlib.Path, configuration: Mapping[str, object] | None = None, resume: bool = False
) -> None:
    """Refuse, before any work is done, a folder that :class:`Workdir` would refuse.

    Without a configuration, everything but the configuration is looked at.
    """
    before = files.held(path, CONFIGURATION, "run", resume, WorkdirError)
    if before is None or configuration is None:
        return
    changed = differences(before, json.loads(json.dumps(configuration)))
    if changed:
        name, was, now = changed[0]
        was, now = ("not recorded" if value is None else value for value in (was, now))
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise WorkdirError(
            f"workdir={path} holds a run of another configuration: {name} was {was}, "
            f"now {now}{more}; resume with the same options, or give another --workdir"
        )


def differences(before: object, now: object, name: str = "") -> list[tuple[str, object, object]]:
    """Where two pieces of JSON data differ: the name of each entry, one value and the other."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted({*before, *now})
            for difference in differences(
                before.get(key), now.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if before == now else [(name, before, now)]


def _quiet() -> None:
    logging.getLogger("absl").setLevel(logging.CRITICAL)
