"""A spotter on the board: settings as ``hearing.h`` for ``csrc/firmware/listening.c``.

Invariant: from the same logits the C code detects the words that ``micronets_jax.spotting`` does,
at the same steps and with the same confidence.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from micronets_jax import spotting
from micronets_jax.firmware.boards import FirmwareError
from micronets_jax.firmware.engine import Interface, source
from micronets_jax.firmware.frontend import FrontEnd
from micronets_jax.spotting import Settings

_STATE_BYTES = 40  # counters and ticks

_SHORTEST_RING = 512
"""Samples: twice as many as one frame of the protocol brings."""


@dataclasses.dataclass(frozen=True)
class Listener:
    """A detector as files for a firmware.

    Attributes:
        settings: of the listener.
        text: of ``listening.json``, which lies in the folder too.
        files: name -> text.
        tables_bytes: of constants.
        ram_bytes: of buffers.
    """

    settings: Settings
    text: str
    files: Mapping[str, str]
    tables_bytes: int
    ram_bytes: int


def build(text: str, hearing: FrontEnd | None, interface: Interface) -> Listener:
    """The listener of a ``listening.json`` for a model with this front end and interface.

    Raises:
        FirmwareError: not the settings of a listener, no front end for speech, or settings that
            belong to another model.
    """
    from micronets_jax.data import MFCC
    from micronets_jax.listening import sliding

    try:
        settings = spotting.from_json(text)
    except ValueError as error:
        raise FirmwareError(f"the listener cannot be read: {error}") from error
    if hearing is None or not isinstance(hearing.record, MFCC):
        raise FirmwareError(
            "a listener needs the front end of its run: give the frontend.json that lies beside "
            "listening.json, too"
        )
    try:
        hop = sliding.frames_per_hop(hearing.record, settings.hop_ms)
    except ValueError as error:
        raise FirmwareError(f"the listener cannot be read: {error}") from error
    outputs = [e for e in interface if e["way"] == "output"]
    classes = len(settings.classes)
    if len(outputs) != 1 or outputs[0]["dtype"] != "int8" or outputs[0]["bytes"] != classes:
        came = ", ".join(f"{e['dtype']} {e['shape']}" for e in outputs)
        raise FirmwareError(
            f"the listener knows {classes} classes, the model gives {came}: give the "
            "listening.json that was written beside this model"
        )
    ring = max(_SHORTEST_RING, settings.hop_samples)
    exponentials = spotting.exponentials(outputs[0]["scale"]).tolist()
    defines = {
        "HOP": hop, "WINDOW": settings.window, "THRESHOLD": settings.threshold,
        "REFRACTORY": settings.refractory, "CLASSES": classes, "RING": ring,
    }  # fmt: skip
    header = [
        "/* How the spotter listens, from listening.json: frames of a hop, samples of a ring. */",
        "#ifndef HEARING_H", "#define HEARING_H", "", "#include <stdint.h>", "",
        *(f"#define HEARING_{name} {value}" for name, value in defines.items()), "",
        "extern const uint16_t hearing_exponentials[256]; /* of minus the scale times this */",
        "extern const uint8_t hearing_words[HEARING_CLASSES]; /* whether it is detected */",
        "extern const char *const hearing_names[HEARING_CLASSES];", "", "#endif", "",
    ]  # fmt: skip
    rows = [", ".join(map(str, exponentials[i : i + 12])) for i in range(0, 256, 12)]
    words = ", ".join(str(int(word)) for word in settings.words)
    names = ", ".join(_string(name) for name in settings.classes)
    body = [
        '#include "hearing.h"', "",
        "const uint16_t hearing_exponentials[256] = {", ",\n".join(rows) + "};", "",
        f"const uint8_t hearing_words[HEARING_CLASSES] = {{{words}}};",
        f"const char *const hearing_names[HEARING_CLASSES] = {{{names}}};", "",
    ]  # fmt: skip
    files = {name: source(name) for name in ("listening.c", "listening.h")}
    files |= {"hearing.h": "\n".join(header), "hearing.c": "\n".join(body)}
    tables = 512 + classes + sum(4 + len(_plain(name)) + 1 for name in settings.classes)
    frames = hearing.record.num_frames * hearing.record.num_coefficients
    ram = 2 * ring + frames + 2 * settings.window * classes + 4 * classes + _STATE_BYTES
    return Listener(settings, text, files, tables, ram)


def most(classes: tuple[str, ...], hop_ms: int) -> str:
    """The text of the listener that takes most memory of all that may be chosen."""
    from micronets_jax.listening.choosing import WINDOWS_MS

    window = 1 + max(WINDOWS_MS) // hop_ms
    return spotting.to_json(Settings(classes, hop_ms, window, spotting.ONE, 0))


def _plain(name: str) -> str:
    """A name as a serial port can show it."""
    return "".join(c if " " <= c <= "~" else "?" for c in name)[:60]


def _string(name: str) -> str:
    return json.dumps(_plain(name))
