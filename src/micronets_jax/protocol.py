"""The host's side of the serial protocol between this machine and a board's firmware.

Invariant: whatever comes over the line (garbage, a truncated frame, a reset, silence), a request
ends within a bounded time, with the board's answer to this request or a :class:`ProtocolError`.

The board's side and the layout of a frame are in ``csrc/firmware/protocol.h``. Usage::

    with protocol.open_port("/dev/ttyACM0") as port:
        board = protocol.Board(port)
        board.hello()["model"]
        result = board.run(input_bytes)          # ticks, ticks of layers, stack, outputs
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import os
import select
import struct
import termios
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

BAUD = 115_200
CHUNK = 512
"""Bytes of the longest payload."""

PART = 256
"""Bytes of input in one request: a noisy line loses less than with the longest."""

_GUARD = 1 << 16  # bytes below the stack that are forbidden, see core.c

HELLO, LOAD, AUDIO, RUN, READ_OUTPUT, READ_INPUT, READ_LAYERS, RESET, FORGET, LISTEN = range(1, 11)
REPLY, WORD, FAULT, DAMAGED, ERROR = 0x80, 0xFC, 0xFD, 0xFE, 0xFF
_SYNC, _HEADER = b"\xa5\x5a", struct.Struct("<2sBBIHH")
_HEARD = struct.Struct("<QQIIiI")  # struct heard of main.c


class ProtocolError(RuntimeError):
    """No port, no answer, or an answer that refuses; the sentence says which."""


class BoardFault(ProtocolError):
    """The core faulted; ``registers`` are those it sent."""

    def __init__(self, sentence: str, registers: dict[str, int]) -> None:
        super().__init__(sentence)
        self.registers = registers


@runtime_checkable
class Port(Protocol):
    """A line of bytes."""

    def read(self, seconds: float) -> bytes:
        """What has come, waiting at most so long for a first byte; empty if nothing did."""
        ...

    def write(self, data: bytes) -> None:
        """Sends all bytes."""
        ...


class Frame(NamedTuple):
    """One message; see ``csrc/firmware/protocol.h``."""

    kind: int
    sequence: int
    argument: int
    payload: bytes


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    check = zlib.crc32(
        struct.pack("<BBIH", frame.kind, frame.sequence, frame.argument, len(frame.payload))
    )
    head = _HEADER.pack(
        _SYNC, frame.kind, frame.sequence, frame.argument, len(frame.payload), check & 0xFFFF
    )
    if not frame.payload:
        return head
    return head + frame.payload + struct.pack("<I", zlib.crc32(frame.payload))


class Decoder:
    """Extracts frames from a stream of bytes with noise between them."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete after these bytes."""
        self._buffer += data
        while True:
            at = self._buffer.find(_SYNC)
            if at < 0:
                self._buffer = self._buffer[-1:]  # perhaps the first half of the mark
                return
            self._buffer = self._buffer[at:]
            if len(self._buffer) < _HEADER.size:
                return
            _, kind, sequence, argument, length, check = _HEADER.unpack_from(self._buffer)
            if length > CHUNK or zlib.crc32(self._buffer[2:10]) & 0xFFFF != check:
                self._buffer = self._buffer[1:]
                continue
            end = _HEADER.size + (length + 4 if length else 0)
            if len(self._buffer) < end:
                return
            payload = self._buffer[_HEADER.size : _HEADER.size + length]
            if length and zlib.crc32(payload) != int.from_bytes(
                self._buffer[end - 4 : end], "little"
            ):
                self._buffer = self._buffer[1:]  # a true frame may begin inside
                continue
            self._buffer = self._buffer[end:]
            yield Frame(kind, sequence, argument, payload)

    def drop(self) -> None:
        """Discards an incomplete frame."""
        self._buffer = self._buffer[1:]


class SerialPort:
    """A serial device of this machine, raw, for this program alone."""

    def __init__(self, path: str, baud: int = BAUD) -> None:
        """Opens it.

        Raises:
            ProtocolError: absent, busy, not allowed, or not a serial port.
        """
        reasons = {
            errno.ENOENT: "there is no such device; is the board plugged in?",
            errno.EBUSY: "the port is busy; close the program that holds it",
            errno.EACCES: "not allowed; become a member of its group (often dialout)",
        }
        try:
            self._file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            reason = reasons.get(error.errno or 0, error.strerror)
            raise ProtocolError(f"serial port {path}: {reason}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.ioctl(self._file, termios.TIOCEXCL)
            _make_raw(self._file, baud)
        except BlockingIOError as error:
            os.close(self._file)
            raise ProtocolError(f"serial port {path}: {reasons[errno.EBUSY]}") from error
        except (OSError, termios.error) as error:
            os.close(self._file)
            raise ProtocolError(f"serial port {path}: not a serial port ({error})") from error
        self.path = path

    def read(self, seconds: float) -> bytes:
        """As :meth:`Port.read`.

        Raises:
            ProtocolError: the port is gone.
        """
        ready, _, _ = select.select([self._file], [], [], max(0.0, seconds))
        if not ready:
            return b""
        try:
            data = os.read(self._file, 4096)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ProtocolError(f"serial port {self.path}: {error.strerror}") from error
        if not data:
            raise ProtocolError(f"serial port {self.path}: the board was unplugged")
        return data

    def write(self, data: bytes) -> None:
        """As :meth:`Port.write`.

        Raises:
            ProtocolError: the port is gone.
        """
        deadline = time.monotonic() + 10.0
        while data:
            _, ready, _ = select.select([], [self._file], [], 1.0)
            if time.monotonic() > deadline:
                raise ProtocolError(f"serial port {self.path}: it takes no bytes")
            try:
                data = data[os.write(self._file, data) :] if ready else data
            except BlockingIOError:
                continue
            except OSError as error:
                raise ProtocolError(f"serial port {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Closes the port."""
        os.close(self._file)


def _make_raw(file: int, baud: int) -> None:
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise OSError(f"{baud} baud is not a speed of serial ports")
    state = termios.tcgetattr(file)
    state[0] = termios.IGNBRK
    state[1] = 0
    state[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
    state[3] = 0
    state[4] = state[5] = speed
    state[6][termios.VMIN], state[6][termios.VTIME] = 0, 0
    termios.tcsetattr(file, termios.TCSANOW, state)
    termios.tcflush(file, termios.TCIOFLUSH)


@contextlib.contextmanager
def open_port(path: str, baud: int = BAUD) -> Iterator[SerialPort]:
    """A serial port (``/dev/ttyACM0``, or ``serial:/dev/ttyACM0``), closed in the end.

    Raises:
        ProtocolError: see :class:`SerialPort`.
    """
    port = SerialPort(path.removeprefix("serial:"), baud)
    try:
        yield port
    finally:
        port.close()


@dataclasses.dataclass(frozen=True)
class Result:
    """One inference on a board.

    Attributes:
        ticks: of the model alone; a tick is a core cycle, or some instructions of an emulated core.
        frontend_ticks: of the front end over the whole clip, 0 without audio.
        stack_bytes: of the firmware, at its deepest.
        layer_ticks: of each layer.
        output: bytes of all outputs.
        features: bytes of all inputs as the front end made them; empty without audio.
    """

    ticks: int
    frontend_ticks: int
    stack_bytes: int
    layer_ticks: tuple[int, ...]
    output: bytes
    features: bytes = b""


class Word(NamedTuple):
    """A detection by a board: the word, the inference, its mean posterior in parts of 32768."""

    name: str
    step: int
    confidence: int


@dataclasses.dataclass(frozen=True)
class Heard:
    """A board's results on a stream of sound so far.

    Attributes:
        words: detections.
        steps: inferences.
        ticks: of these, smoothing included.
        frontend_ticks: of the front end.
        lost: samples dropped because the buffer was full.
        stack_bytes: of the firmware, at its deepest.
        outputs, features: bytes of all outputs and inputs of each inference, where they were asked.
    """

    words: tuple[Word, ...]
    steps: int
    ticks: int
    frontend_ticks: int
    lost: int
    stack_bytes: int
    outputs: tuple[bytes, ...] = ()
    features: tuple[bytes, ...] = ()


class Board:
    """A board that answers.

    Args:
        port: the line to it.
        seconds: how long one answer may take; a run has ``run_seconds``.
        tries: how often a request is sent before the board counts as silent.
        alive: raises if whatever is behind the line has ended; asked while waiting.
    """

    def __init__(
        self,
        port: Port,
        *,
        seconds: float = 1.0,
        run_seconds: float = 60.0,
        tries: int = 5,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._port, self._seconds, self._run_seconds = port, seconds, run_seconds
        self._tries, self._alive = tries, alive
        self._decoder = Decoder()
        self._sequence = os.urandom(1)[0]
        self.info: dict[str, str] = {}
        self._words: list[Word] = []

    def hello(self) -> dict[str, str]:
        """What the board says of itself: board, runtime, model, ticks_hz, layers, ...

        Raises:
            ProtocolError: it is silent, or speaks another version.
        """
        self.info = _lines(self.ask(HELLO).payload)
        if self.info.get("protocol") != "1":
            raise ProtocolError(
                f"the board speaks protocol {self.info.get('protocol')}; this program speaks 1: "
                "write and flash the firmware again"
            )
        return self.info

    def run(self, data: bytes | None = None, audio: bytes | None = None, heard: int = 0) -> Result:
        """One inference on the bytes of all inputs, on audio (int16), or on the built-in input.

        A model with state goes on from the last run.

        Args:
            data: the inputs, one behind the other.
            audio: samples of one input.
            heard: samples of the same stream that came before, of a model with state.

        Raises:
            ProtocolError: the board is silent or refuses.
            BoardFault: its core faulted.
        """
        if not self.info:
            self.hello()
        features = b""
        if audio is not None:
            features = self._send_parts(AUDIO, audio, 2, heard)
            features = features or self._read_all(READ_INPUT, int(self.info["input_bytes"]))
        elif data is not None:
            self._send_parts(LOAD, data, 1)
        built_in = data is None and audio is None
        done = self.ask(RUN, int(built_in), seconds=self._run_seconds).payload
        if len(done) != 24:
            raise ProtocolError(f"the board answered a run with {len(done)} bytes instead of 24")
        ticks, frontend_ticks, status, stack = struct.unpack("<QQiI", done)
        if status:
            raise ProtocolError(f"the model returned error {status}")
        raw = self._read_all(READ_LAYERS, 8 * int(self.info["layers"]))
        marks = (0, *struct.unpack(f"<{len(raw) // 8}Q", raw))
        layers = tuple(b - a for a, b in itertools.pairwise(marks))
        output = self._read_all(READ_OUTPUT, int(self.info["output_bytes"]))
        return Result(ticks, frontend_ticks, stack, layers, output, features)

    def forget(self) -> None:
        """Lets a model with state, and its audio, begin anew.

        Raises:
            ProtocolError: the model has no state, or the board is silent.
        """
        if not self.info:
            self.hello()
        if "remembers" not in self.info:
            raise ProtocolError(f"the model {self.info.get('model')} keeps nothing between runs")
        self.ask(FORGET)

    def listen(self, audio: Iterable[bytes], *, look: bool = False) -> Heard:
        """Lets the board hear a stream from its beginning.

        Args:
            audio: int16 samples, in parts of any length.
            look: whether to read features and outputs of every inference.

        Raises:
            ProtocolError: the board is silent or refuses, or its model fails.
            BoardFault: its core faulted.
        """
        if not self.info:
            self.hello()
        self._words = []
        outputs: list[bytes] = []
        features: list[bytes] = []
        at, done = 0, (0, 0, 0, 0, 0, 0)
        for part in audio:
            for start in range(0, len(part), CHUNK):
                piece = part[start : start + CHUNK]
                reply = self.ask(LISTEN, at, piece, self._run_seconds).payload
                if len(reply) != _HEARD.size:
                    raise ProtocolError(
                        f"the board answered with {len(reply)} bytes instead of {_HEARD.size}"
                    )
                before, done = done, _HEARD.unpack(reply)
                at += len(piece) // 2
                if done[4]:
                    raise ProtocolError(f"the model returned error {done[4]}")
                if look and done[2] > before[2]:
                    outputs.append(self._read_all(READ_OUTPUT, int(self.info["output_bytes"])))
                    features.append(self._read_all(READ_INPUT, int(self.info["input_bytes"])))
        ticks, frontend_ticks, steps, lost, _, stack = done
        return Heard(
            tuple(self._words), steps, ticks, frontend_ticks, lost, stack, tuple(outputs),
            tuple(features),
        )  # fmt: skip

    def reset(self) -> None:
        """Starts the board again; it answers when it is back."""
        self._port.write(encode(Frame(RESET, 0, 0, b"")))
        self.info = {}

    def ask(
        self, kind: int, argument: int = 0, payload: bytes = b"", seconds: float | None = None
    ) -> Frame:
        """The answer to one request, which is sent again if it or its answer is lost.

        Args:
            kind: of the request, see ``csrc/firmware/protocol.h``.
            argument: of the frame.
            payload: of the frame.
            seconds: to wait for each answer; None for the board's usual ones.

        Returns:
            The frame that has the request's number and argument.

        Raises:
            BoardFault: the firmware stopped at a fault.
            ProtocolError: no answer came in time, or the board refuses.
        """
        self._sequence = self._sequence % 255 + 1
        request = encode(Frame(kind, self._sequence, argument, payload))
        wait = self._seconds if seconds is None else seconds
        for _ in range(self._tries):
            self._port.write(request)
            for frame in self._frames(wait):
                if frame.kind == FAULT:
                    raise _fault(frame.payload)
                if frame.kind == WORD:
                    self._words.append(_word(frame.payload))
                    continue
                if frame.sequence != self._sequence:
                    continue  # an answer that came too late
                if frame.kind == DAMAGED:
                    break
                if frame.kind == ERROR:
                    raise ProtocolError(f"the board refuses: {frame.payload.decode()}")
                if frame.kind == kind + REPLY and frame.argument == argument:
                    return frame
        raise ProtocolError(
            f"no answer: {self._tries} requests in {self._tries * wait:g} s (is the firmware "
            "flashed, and is this its port?)"
        )

    def _frames(self, seconds: float) -> Iterator[Frame]:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            data = self._port.read(min(left, 0.2))
            if not data:
                self._alive()
            yield from self._decoder.feed(data)
        self._decoder.drop()

    def _send_parts(self, kind: int, data: bytes, unit: int, first: int = 0) -> bytes:
        """All answers, one behind the other."""
        return b"".join(
            self.ask(kind, first + start // unit, data[start : start + PART]).payload
            for start in range(0, len(data), PART)
        )

    def _read_all(self, kind: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.ask(kind, len(data)).payload
            if not part:
                raise ProtocolError(f"the board sent {len(data)} of {size} bytes")
            data += part
        return data


def _lines(text: bytes) -> dict[str, str]:
    """What a board says in lines of a name and a value."""
    pairs = (line.partition(" ") for line in text.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


def _word(payload: bytes) -> Word:
    said = _lines(payload)
    try:
        return Word(said["word"], int(said["step"]), int(said["confidence"]))
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"the board told a word that cannot be read: {payload!r}") from error


_WORDS: tuple[str, ...] = (
    "r0", "r1", "r2", "r3", "r12", "lr", "pc", "psr", "cfsr", "hfsr", "mmfar", "bfar", "sp",
    "stack_limit", "saved",
)  # fmt: skip
# Bit of CFSR -> cause, and which register holds the address (Armv7-M, B3.2.15; 20 is Armv8-M's).
_CAUSES = (
    (25, "division by zero", ""), (24, "unaligned access", ""),
    (20, "the stack overflowed", "sp"),
    (19, "no coprocessor", ""), (18, "return to an invalid state", ""),
    (17, "invalid state of the core", ""), (16, "undefined instruction", ""),
    (12, "the stack overflowed", "sp"), (13, "bus error while saving floats", ""),
    (9, "bus error", "bfar"), (10, "late bus error", ""), (8, "bus error at a fetch", "pc"),
    (4, "the stack overflowed", "sp"), (1, "forbidden access", "mmfar"),
    (0, "forbidden fetch", "pc"),
)  # fmt: skip


def _fault(payload: bytes) -> BoardFault:
    """What a core sent when it faulted, as a sentence with its registers."""
    if len(payload) != 4 * len(_WORDS):
        return BoardFault("the core faulted and sent no registers", {})
    registers = dict(zip(_WORDS, struct.unpack(f"<{len(_WORDS)}I", payload), strict=True))
    cfsr = registers["cfsr"]
    cause, place = next(((c, p) for bit, c, p in _CAUSES if cfsr >> bit & 1), ("a fault", ""))
    valid = {"bfar": cfsr >> 15 & 1, "mmfar": cfsr >> 7 & 1, "pc": 1, "sp": 1, "": 0}[place]
    if valid and 0 < registers["stack_limit"] - registers[place] <= _GUARD:
        cause = "the stack overflowed"
    at = f" at address 0x{registers[place]:08x}" if valid else ""
    named = ("pc", "lr", "sp", "r0", "r1", "r2", "r3", "r12", "psr", "cfsr", "hfsr")
    values = ", ".join(
        f"{name} 0x{registers[name]:08x}"
        for name in named
        if registers["saved"] or name in ("sp", "cfsr", "hfsr")
    )
    return BoardFault(f"the core faulted: {cause}{at} ({values})", registers)
