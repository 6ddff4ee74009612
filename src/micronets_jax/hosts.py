"""The processes of one run, on one host or on many: how they find each other, what they tell.

Invariant: all processes call these functions in the same order. Alone, each call is done at once,
and nothing is started.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

AUTO = "auto"
"""In place of an address: JAX asks the TPU pod, SLURM, Open MPI or Kubernetes."""

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Variables of the environment that stand for options that are not given."""

SLICES = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
"""Variables in which Kubernetes lists the hosts of a TPU slice, the first that is set."""

PATIENCE_MS = 7 * 24 * 3600 * 1000
"""Longest wait for what another host is computing. One that dies is noticed by JAX's heartbeat."""

HEARD_MS = 60_000
"""How long a host that fails waits for others to hear of it."""

_numbers = itertools.count()


class HostError(RuntimeError):
    """Hosts that cannot run together; the message says why and what to do."""


def join(
    coordinator: str | None,
    num_processes: int | None = None,
    process_id: int | None = None,
    seconds: float = 300.0,
) -> None:
    """Join the other processes of this run; call before anything else uses JAX.

    Nothing happens where neither an option nor the environment names a coordinator and the
    environment lists no other hosts of a TPU slice.

    Args:
        coordinator: ``HOST:PORT`` of process 0, or :data:`AUTO`.
        num_processes: of the whole run.
        process_id: of this one, from 0.
        seconds: longest wait for the others.

    Raises:
        HostError: the options cannot be, or process 0 is not reached in time. Where others do not
            come in time this process ends with such a sentence and status 2, because JAX's client
            would abort it.
    """
    coordinator = coordinator or os.environ.get(ADDRESS)
    if coordinator is None and any("," in os.environ.get(name, "") for name in SLICES):
        coordinator = AUTO
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise HostError(
                "num-processes and process-id need an address: add --coordinator HOST:PORT of "
                "process 0"
            )
        return
    count = _number(COUNT) if num_processes is None else num_processes
    index = _number(INDEX) if process_id is None else process_id
    if not seconds > 0:
        raise HostError(f"join-seconds={seconds:g}: give more than 0")
    if count is not None and count < 1:
        raise HostError(f"num-processes={count}: give 1 or more")
    if index is not None and not 0 <= index < (count or index + 1):
        last = "" if count is None else f" to {count - 1}, for there are {count} processes"
        raise HostError(f"process-id={index}: give 0{last}")
    if coordinator != AUTO:
        _check_address(coordinator)
        if index:
            _reach(coordinator, seconds)
    jax = importlib.import_module("jax")
    with _deadline(
        seconds, f"coordinator={coordinator}: after {seconds:g} s not all hosts are there"
    ):
        try:
            jax.distributed.initialize(
                None if coordinator == AUTO else coordinator,
                count,
                index,
                initialization_timeout=int(seconds) + 60,  # the deadline comes first
            )
        except (ValueError, TypeError) as error:
            raise HostError(
                f"coordinator={coordinator}: no TPU pod, SLURM, Open MPI or Kubernetes says the "
                "rest; give --coordinator HOST:PORT --num-processes N --process-id I"
            ) from error
        except RuntimeError as error:
            raise HostError(
                f"coordinator={coordinator}: process 0 cannot listen there "
                f"({str(error).splitlines()[0]}); give the address of its host and a free port"
            ) from error


def count() -> int:
    """How many processes there are."""
    jax = importlib.import_module("jax")
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this is, from 0."""
    jax = importlib.import_module("jax")
    return jax.process_index() if jax.distributed.is_initialized() else 0


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return index() == 0


def exchange(text: str, patience_ms: int = PATIENCE_MS) -> list[str]:
    """What every host says here, in their order.

    Raises:
        RuntimeError: another has not spoken in time.
    """
    number, everyone = next(_numbers), range(count())
    if len(everyone) == 1:
        return [text]
    client = _client()
    client.key_value_set(f"micronets/{number}/{index()}", text)
    return [client.blocking_key_value_get(f"micronets/{number}/{i}", patience_ms) for i in everyone]


def from_first(make: Callable[[], str]) -> str:
    """What ``make`` returns on host 0, on all hosts; the others wait.

    Raises:
        HostError: on the others, where ``make`` raises an exception on host 0.
    """
    number = next(_numbers)
    if count() == 1:
        return make()
    client, key = _client(), f"micronets/{number}"
    if first():
        try:
            made = make()
        except Exception as error:
            client.key_value_set(key, f"!{error}")
            raise
        client.key_value_set(key, f"={made}")
        return made
    said = client.blocking_key_value_get(key, PATIENCE_MS)
    if said[0] == "!":
        raise HostError(f"host 0: {said[1:]}")
    return said[1:]


@contextlib.contextmanager
def together(*kinds: type[Exception]) -> Iterator[None]:
    """A part of a run that all hosts end in the same way: what one raises, all raise.

    The hosts wait for each other at its end. After an error they have parted, and each is alone.

    Args:
        *kinds: of errors that are told to the others, as :class:`HostError` is; any other leaves
            the block at once.

    Raises:
        HostError: another host has failed.
    """
    try:
        yield
    except (HostError, *kinds) as error:
        # Others may be amid a computation, waiting for this host: then there is no parting.
        with contextlib.suppress(RuntimeError):
            exchange(f"!{error}", HEARD_MS)
            _part()
        raise
    for host, said in enumerate(exchange("")):
        if said:
            _part()
            raise HostError(f"host {host}: {said[1:]}")


@contextlib.contextmanager
def abandoned() -> Iterator[None]:
    """Whatever leaves this block as an exception ends the process at once if there are others.

    At the end of a process JAX waits minutes for the others, which wait for this one.
    """
    try:
        yield
    except BaseException as error:
        if count() == 1:
            raise
        if not isinstance(error, SystemExit):
            sys.excepthook(type(error), error, error.__traceback__)
            print("a host of this run has failed; start all again, with --resume", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code if isinstance(code, int) else 1)


def _client() -> Any:
    """JAX's client of the coordinator, through which Orbax speaks too. Unlike a collective of
    devices it may wait for hours."""
    return importlib.import_module("jax._src.distributed").global_state.client


def _part() -> None:
    importlib.import_module("jax").distributed.shutdown()


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdecimal():
        raise HostError(f"{variable}={value!r} in the environment is not a number from 0 on")
    return int(value)


def _check_address(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise HostError(
            f"coordinator={coordinator}: give HOST:PORT of process 0, with a port of 1 to 65535, "
            f"or {AUTO}"
        )


def _reach(coordinator: str, seconds: float) -> None:
    """Waits until host 0 accepts connections; JAX's client would abort the process instead."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise HostError(
                    f"coordinator={coordinator} cannot be reached for {seconds:g} s ({error}); "
                    "start process 0 there, or give its address"
                ) from error
        time.sleep(min(0.2, seconds))


@contextlib.contextmanager
def _deadline(seconds: float, sentence: str) -> Iterator[None]:
    """Ends the process with status 2 where the block takes longer."""

    def end() -> None:
        print(f"error: {sentence}; start all of them, with the same number", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
