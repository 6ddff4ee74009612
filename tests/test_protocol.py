"""The serial protocol: frames by hand, garbage, losses, resets, and ports that are not there."""

import os
import struct
import zlib

import hypothesis
import hypothesis.strategies as st
import pytest

from micronets_jax import protocol
from micronets_jax.protocol import Frame


def test_a_frame_by_hand():
    head = bytes([4, 7, 1, 0, 0, 0, 0, 0])  # run, sequence 7, argument 1, no payload
    check = zlib.crc32(head) & 0xFFFF
    want = b"\xa5\x5a" + head + bytes([check & 255, check >> 8])
    assert protocol.encode(Frame(protocol.RUN, 7, 1, b"")) == want
    # CRC-32 of "123456789" is 0xCBF43926 in every table of checksums.
    data = protocol.encode(Frame(protocol.LOAD, 1, 0, b"123456789"))
    assert data[-4:] == bytes.fromhex("2639f4cb")


frames = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
)


@hypothesis.given(st.lists(st.tuples(st.binary(max_size=20), frames), max_size=6), st.data())
def test_frames_survive_garbage_and_any_cutting(items, draw):
    """Garbage that holds no beginning of a frame costs nothing."""
    stream = b"".join(junk.replace(b"\xa5", b"\x00") + protocol.encode(f) for junk, f in items)
    decoder, got, at = protocol.Decoder(), [], 0
    while at < len(stream):
        step = draw.draw(st.integers(1, len(stream) - at))
        got += decoder.feed(stream[at : at + step])
        at += step
    assert got == [frame for _, frame in items]


@hypothesis.given(frames, st.data())
def test_a_damaged_frame_costs_itself_alone(frame, draw):
    """One byte changed or lost: the frame behind it arrives, if need be after a timeout."""
    data = bytearray(protocol.encode(frame))
    at = draw.draw(st.integers(0, len(data) - 1))
    if draw.draw(st.booleans()):
        data[at] ^= draw.draw(st.integers(1, 255))
    else:
        del data[at]
    decoder = protocol.Decoder()
    following = Frame(1, 2, 3, b"whole")
    got = list(decoder.feed(bytes(data) + protocol.encode(following)))
    for _ in range(len(data)):
        decoder.drop()
        got += decoder.feed(b"")
    assert got[-1:] == [following]
    assert frame not in got[:-1]


class FakeBoard:
    """A board in Python: adds 1 to its four input bytes. ``noise`` spoils what the host sends."""

    def __init__(self, noise=lambda request, data: data):
        self.decoder, self.out, self.noise = protocol.Decoder(), b"", noise
        self.input, self.runs, self.requests = bytearray(4), 0, 0
        self.loaded, self.last_run = 0, None

    def write(self, data: bytes) -> None:
        self.requests += 1
        for frame in self.decoder.feed(self.noise(self.requests, data)):
            self.answer(frame)

    def read(self, seconds: float) -> bytes:
        data, self.out = self.out, b""
        return data

    def reply(self, frame: Frame, payload: bytes = b"") -> None:
        kind = frame.kind + protocol.REPLY
        self.out += protocol.encode(Frame(kind, frame.sequence, frame.argument, payload))

    def refuse(self, frame: Frame, text: bytes) -> None:
        self.out += protocol.encode(Frame(protocol.ERROR, frame.sequence, 0, text))

    def answer(self, frame: Frame) -> None:
        if frame.kind == protocol.HELLO:
            self.reply(frame, b"protocol 1\ninput_bytes 4\noutput_bytes 4\nlayers 2\nmodel a b\n")
        elif frame.kind == protocol.LOAD:
            self.input[frame.argument : frame.argument + len(frame.payload)] = frame.payload
            self.loaded = frame.argument + len(frame.payload)
            self.reply(frame)
        elif frame.kind == protocol.RUN:
            if self.loaded < 4 and frame.sequence != self.last_run:
                return self.refuse(frame, b"the input has not come")
            self.runs += self.loaded > 0
            self.loaded, self.last_run = 0, frame.sequence
            self.reply(frame, struct.pack("<QQiI", 30, 0, 0, 99))
        elif frame.kind == protocol.READ_LAYERS:
            self.reply(frame, struct.pack("<2Q", 10, 30))
        elif frame.kind == protocol.READ_OUTPUT:
            self.reply(frame, bytes(b + 1 for b in self.input)[frame.argument :])
        return None


def quick(port) -> protocol.Board:
    return protocol.Board(port, seconds=0.02, run_seconds=0.02)


def test_a_run():
    fake = FakeBoard()
    board = quick(fake)
    result = board.run(b"\x01\x02\x03\x04")
    assert board.info["model"] == "a b"
    assert result == protocol.Result(30, 0, 99, (10, 20), b"\x02\x03\x04\x05")


def lose(request: int, data: bytes) -> bytes:
    return b"" if request % 2 else data


def damage(request: int, data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if request % 3 == 1 else data


def precede(request: int, data: bytes) -> bytes:
    return b"\x00\xa5\xa5\x5a\x5a noise" + data


@pytest.mark.parametrize("noise", [lose, damage, precede])
def test_noise_to_the_board_is_overcome(noise):
    fake = FakeBoard(noise)
    assert quick(fake).run(b"\x05\x06\x07\x08").output == b"\x06\x07\x08\x09"
    assert fake.runs == 1


def test_a_lost_answer_does_not_run_twice():
    """An inference overwrites its input: a second one would compute something else."""
    fake = FakeBoard()
    lost = []
    reply = fake.reply

    def forgetful(frame, payload=b""):
        if frame.kind == protocol.RUN and not lost:
            lost.append(frame)
        else:
            reply(frame, payload)

    fake.reply = forgetful
    assert quick(fake).run(b"\x01\x01\x01\x01").ticks == 30
    assert lost and fake.runs == 1


def test_answers_to_older_requests_do_not_count():
    fake = FakeBoard()
    board = quick(fake)
    board.hello()
    older = board._sequence
    fake.out = protocol.encode(Frame(protocol.HELLO + protocol.REPLY, older, 0, b"protocol 9\n"))
    assert board.hello()["protocol"] == "1"


def test_silence_ends():
    fake = FakeBoard(lambda request, data: b"")
    with pytest.raises(protocol.ProtocolError, match=r"no answer: 5 requests in 0.1 s"):
        quick(fake).hello()
    assert fake.requests == 5


def test_a_reset_in_the_middle_is_said():
    """The board has forgotten the input: it refuses, and the host does not make results up."""
    fake = FakeBoard()
    board = quick(fake)
    board.hello()

    def forget(request, data):
        if data[2] == protocol.RUN:
            fake.loaded = 0
        return data

    fake.noise = forget
    with pytest.raises(protocol.ProtocolError, match="refuses: the input has not come"):
        board.run(b"\x01\x02\x03\x04")


def registers(**values: int) -> bytes:
    names = [
        "r0", "r1", "r2", "r3", "r12", "lr", "pc", "psr", "cfsr", "hfsr", "mmfar", "bfar", "sp",
        "limit", "saved",
    ]  # fmt: skip
    return struct.pack("<15I", *(values.get(name, 0) for name in names))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"cfsr": 0x8200, "bfar": 0x60000000, "pc": 0x8001234, "saved": 1},
            "the core faulted: bus error at address 0x60000000 (pc 0x08001234",
        ),
        ({"cfsr": 1 << 12, "sp": 0x1FFFFFF0}, "the stack overflowed at address 0x1ffffff0 (sp"),
        ({"cfsr": 1 << 16, "pc": 8, "saved": 1}, "undefined instruction (pc 0x00000008"),
        ({"cfsr": 0x82, "mmfar": 4, "saved": 1}, "forbidden access at address 0x00000004"),
        (
            {"cfsr": 0x82, "mmfar": 0x1FFFFFF8, "limit": 0x20000000, "saved": 1},
            "the stack overflowed at address 0x1ffffff8",
        ),
        ({"cfsr": 0}, "a fault (sp"),
    ],
)
def test_faults_are_sentences(values, says):
    fake = FakeBoard()
    payload = registers(**values)
    fake.answer = lambda frame: setattr(
        fake, "out", protocol.encode(Frame(protocol.FAULT, 0, 0, payload))
    )
    with pytest.raises(protocol.BoardFault) as caught:
        quick(fake).hello()
    assert says in str(caught.value)
    assert caught.value.registers["cfsr"] == values["cfsr"]


def test_ports_that_cannot_be_opened(tmp_path):
    with (
        pytest.raises(protocol.ProtocolError, match="there is no such device"),
        protocol.open_port("serial:/dev/ttyNOWHERE"),
    ):
        pass
    plain = tmp_path / "file"
    plain.write_text("")
    with (
        pytest.raises(protocol.ProtocolError, match="not a serial port"),
        protocol.open_port(str(plain)),
    ):
        pass


def test_a_port_is_raw_and_for_one_program():
    master, slave = os.openpty()
    path = os.ttyname(slave)
    with protocol.open_port(path) as port:
        with pytest.raises(protocol.ProtocolError, match="busy"), protocol.open_port(path):
            pass
        port.write(b"\x03\r\n\xff")  # an interrupt and line ends, for a terminal that is not raw
        assert os.read(master, 16) == b"\x03\r\n\xff"
        os.write(master, b"\x11\x04\r")
        assert port.read(1.0) == b"\x11\x04\r"
        assert port.read(0.0) == b""
        os.close(slave)
        os.close(master)
        with pytest.raises(protocol.ProtocolError, match=path):
            port.read(1.0)
