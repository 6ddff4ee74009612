"""The command line: words to calls, nothing else.

Invariant: what the user got wrong is one sentence on standard error and exit status 2; with
``--json`` standard output holds one object and nothing else. Outputs that are not what they must be
are exit status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from micronets_jax import __version__, targets
from micronets_jax.tflite import TFLiteError

if TYPE_CHECKING:
    from micronets_jax.firmware import Run


Result = dict[str, object]
"""What ``--json`` prints."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    from micronets_jax import console

    with console.piped():
        arguments = _parser().parse_args(argv)
    try:
        result, text, *status = arguments.command(arguments)
    except _user_errors() as error:
        print(f"micronets {arguments.name}: {error}", file=sys.stderr)
        return 2
    with console.piped(*status):
        print(json.dumps(result) if arguments.json else text)
    return status[0] if status else 0


def _user_errors() -> tuple[type[Exception], ...]:
    from micronets_jax.devices import DeviceError
    from micronets_jax.firmware import FirmwareError
    from micronets_jax.protocol import ProtocolError

    return (TFLiteError, DeviceError, FirmwareError, ProtocolError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="micronets", description="Neural networks for microcontrollers."
    )
    parser.add_argument("--version", action="version", version=f"micronets {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=function, name=name)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    sub = command("compile", _compile, "Compile an int8 TFLite model to C.")
    sub.add_argument("model", help="a .tflite file")
    sub.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write")
    sub.add_argument(
        "--verify", action="store_true", help="build here and compare with TFLM and LiteRT"
    )
    sub.add_argument(
        "--like",
        choices=("reference", "tflm"),
        default="reference",
        help="who is right where TFLM and LiteRT's reference kernels differ (with --verify)",
    )
    sub.add_argument(
        "--flash-budget",
        type=_bytes,
        default=0,
        metavar="BYTES",
        help="flash to spend on weights stored as int16, where that saves most time",
    )
    _plan_options(sub)
    sub.add_argument(
        "--ram", type=_bytes, metavar="BYTES", help="the fastest plan whose arena fits into these"
    )
    sub.add_argument(
        "--input",
        choices=["whole", "rows"],
        default="whole",
        help="whether the input is in the arena, or rows are pushed as they come",
    )

    command("operators", _operators, "List the operators that compile, and their limits.")

    sub = command("firmware", _firmware, "Write a model as a complete program for a board.")
    sub.add_argument("model", help="a .tflite file")
    sub.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write")
    sub.add_argument("--device", required=True, metavar="BOARD", help="such as STM32F746ZG")
    sub.add_argument(
        "--runtime", default="compiled", help=f"{' or '.join(targets.TARGETS)}; default: compiled"
    )
    sub.add_argument(
        "--tflm-include",
        nargs="+",
        default=[],
        metavar="DIR",
        help="headers of TFLM, flatbuffers and gemmlowp (runtime tflm; or TFLM_INCLUDE)",
    )
    sub.add_argument(
        "--tflm-library", metavar="FILE", help="libtensorflow-microlite.a (or TFLM_LIBRARY)"
    )
    sub.add_argument(
        "--frontend", metavar="frontend.json", help="of the model, to take audio on the board"
    )
    sub.add_argument(
        "--listening",
        metavar="listening.json",
        help="of the model, to tell words out of a stream of audio",
    )
    sub.add_argument(
        "--flash-budget",
        type=_bytes,
        default=0,
        metavar="BYTES",
        help="flash to spend on weights stored as int16 (compiled runtime)",
    )
    _plan_options(sub)
    sub.add_argument(
        "--input",
        choices=["whole", "rows"],
        default="whole",
        help="rows: computes on each row as it comes, and never holds the input",
    )

    sub = command("run", _run, "Run a compiled folder or a firmware on an emulated core.")
    sub.add_argument("folder", help="what `micronets compile` or `micronets firmware` wrote")
    sub.add_argument(
        "--core",
        help="cortex-m4 (default), cortex-m0plus, cortex-m3, cortex-m7, cortex-m33 or cortex-m55; "
        "a firmware runs on its board's core",
    )
    sub.add_argument(
        "--input",
        default="lcg:12345",
        metavar="FILE.npy|FILE.npz|FILE.wav|lcg:SEED",
        help="what the model reads; audio if a firmware has a front end",
    )

    sub = command("flash", _flash, "Put a firmware onto its board with OpenOCD or st-flash.")
    sub.add_argument("folder", help="what `micronets firmware` wrote")

    sub = command("inspect", _inspect, "Show layers, sizes and the plans of a model.")
    sub.add_argument("model", help="a .tflite file")
    _plan_options(sub)
    sub.add_argument("--input", choices=["whole", "rows"], default="whole", help="see compile")
    sub.add_argument("--picture", metavar="FILE.svg", help="draw memory against instructions")

    sub = command(
        "calibrate", _calibrate, "Measure the speed of the board on the desk, for all predictions."
    )
    sub.add_argument("device", metavar="BOARD", help="which board it is, such as STM32F446RE")
    sub.add_argument(
        "--port", required=True, metavar="serial:PATH", help="of the board: serial:/dev/ttyACM0"
    )
    command("devices", _devices, "List the known boards, and where each figure comes from.")
    command("zoo", _zoo, "List the published networks: cost, boards, and what the papers say.")
    return parser


def _plan_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--plan",
        choices=["balanced", "speed", "memory", "whole"],
        default="balanced",
        help="least memory at 3 %% more instructions at most (default), fewest instructions, least "
        "memory, or no layer row by row",
    )


def _bytes(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _read(path: str) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise TFLiteError(f"cannot read {path}: {error.strerror or error}") from error


def _read_text(path: str | None) -> str | None:
    return _read(path).decode(errors="replace") if path else None


def _write(path: str, text: str) -> None:
    try:
        pathlib.Path(path).write_text(text)
    except OSError as error:
        raise TFLiteError(f"cannot write {path}: {error.strerror or error}") from error


def _summary(compiled) -> Result:
    from micronets_jax.compile import report

    weights, tables = compiled.constant_bytes
    return {
        "model": compiled.title,
        "macs": compiled.macs,
        "arena_bytes": compiled.arena_bytes,
        "arena_bound_bytes": compiled.plan.bound,
        "instructions_predicted": compiled.instructions,
        **({"state_bytes": compiled.state_bytes} if compiled.state_bytes else {}),
        "weights_bytes": weights + tables,
        "code_bytes_predicted": compiled.code_bytes,
        "folding": report.folding(compiled.graph.foldings),
        "inputs": [e for e in compiled.interface() if e["way"] == "input"],
        "outputs": [e for e in compiled.interface() if e["way"] == "output"],
    }


def _compile(arguments: argparse.Namespace) -> tuple[Result, str]:
    from micronets_jax import compile as compiler
    from micronets_jax.compile import report

    model = _read(arguments.model)
    compiled = compiler.compile_model(
        model,
        pathlib.Path(arguments.model).stem,
        arguments.flash_budget,
        plan=arguments.plan if arguments.ram is None else "speed",
        ram=arguments.ram,
        rows=arguments.input == "rows",
    )
    result, said = _summary(compiled), []
    if arguments.verify:
        from micronets_jax.compile import verify

        verdict = verify.verify(compiled, model, like=arguments.like)
        result["verified_cases"] = verdict.cases
        result["equal_to"], result["notes"] = list(verdict.equal_to), list(verdict.notes)
        whom = " and ".join(verdict.equal_to) or "no interpreter as a whole"
        said = [f"equal to {whom} on {verdict.cases} inputs", *verdict.notes]
    compiler.write(compiled, arguments.output)
    result["output"] = str(arguments.output)
    text = (
        f"{arguments.output}: arena {compiled.arena_bytes} bytes (bound {compiled.plan.bound}), "
        f"{_state(compiled)}weights and tables {result['weights_bytes']} bytes, code about "
        f"{compiled.code_bytes} bytes, about {compiled.instructions} instructions"
    )
    for line in report.folding_lines(compiled.graph.foldings)[-1:]:
        text += f"; {line} (micronets inspect says where)"
    return result, "\n".join([text, *said])


def _state(compiled) -> str:
    return f"state {compiled.state_bytes} bytes, " if compiled.state_bytes else ""


def _operators(arguments: argparse.Namespace) -> tuple[Result, str]:
    from micronets_jax.compile.operators import ROWS

    rows = [ROWS[name] for name in sorted(ROWS)]
    width = max(len(row.name) for row in rows)
    return (
        {"operators": [{"name": row.name, "limits": row.limits} for row in rows]},
        "\n".join(f"{row.name:<{width}}  {row.limits}".rstrip() for row in rows),
    )


def _firmware(arguments: argparse.Namespace) -> tuple[Result, str]:
    from micronets_jax import devices, firmware

    prediction = firmware.write(
        _read(arguments.model), arguments.device, arguments.output, runtime=arguments.runtime,
        title=pathlib.Path(arguments.model).stem, flash_budget=arguments.flash_budget,
        plan=arguments.plan, rows=arguments.input == "rows",
        tflm_include=arguments.tflm_include, tflm_library=arguments.tflm_library,
        frontend=_read_text(arguments.frontend), listening=_read_text(arguments.listening),
    )  # fmt: skip
    board = devices.device(arguments.device)
    provenance = board.provenance
    result: Result = {
        "device": board.name,
        "provenance": provenance,
        "runtime": arguments.runtime,
        "output": str(arguments.output),
        "predicted": {"flash": prediction.flash_bytes, "ram": prediction.ram_bytes},
        "linked": None,
    }
    head = f"{arguments.output}: {arguments.runtime} runtime for {board.name}, {provenance}"
    if not firmware.has_compiler():
        return result, (
            f"{head}\npredicted: flash {prediction.flash_bytes}, RAM {prediction.ram_bytes} bytes; "
            "linking was not checked: install the Debian packages gcc-arm-none-eabi and make"
        )
    fit = firmware.check(arguments.output)
    result["linked"] = {"flash": fit.flash_linked, "ram": fit.ram_linked}
    return result, f"{head}\n{fit.table}\nit fits"


def _run(arguments: argparse.Namespace) -> tuple[Result, str] | tuple[Result, str, int]:
    from micronets_jax import devices, firmware

    if firmware.listens(arguments.folder, arguments.input):
        return _listened(arguments.folder, arguments.input)
    ran = firmware.run(arguments.folder, arguments.input, core=arguments.core)
    if firmware.is_firmware(arguments.folder):
        return _ran_firmware(ran)
    core = devices.device(ran.device).core
    outputs = [output.reshape(-1).tolist() for output in ran.outputs]
    result: Result = {
        "core": core, "instructions": ran.instructions, "arena_bytes": ran.arena_bytes,
        "stack_bytes": ran.stack_bytes, "code_bytes": ran.code_bytes,
        "weights_bytes": ran.weights_bytes, "output": outputs[0], "layers": ran.layers,
    }  # fmt: skip
    if len(outputs) > 1:
        result["outputs"] = outputs
    result |= _stream(ran)
    lines = _layer_table(ran.layers)
    lines += [
        f"{core}: {ran.instructions} instructions",
        f"arena {ran.arena_bytes}, stack {ran.stack_bytes}, code {ran.code_bytes}, "
        f"weights and tables {ran.weights_bytes} bytes",
        *_output_lines(ran),
    ]
    return result, "\n".join(lines)


def _stream(ran: Run) -> Result:
    """The outputs of each run, if there were several."""
    if len(ran.stream) == 1:
        return {}
    return {"stream": [[one.reshape(-1).tolist() for one in run] for run in ran.stream]}


def _output_lines(ran: Run) -> list[str]:
    """The first output, of each run if there were several."""
    if len(ran.stream) == 1:
        return [f"output {ran.outputs[0].reshape(-1)[:32].tolist()}"]
    firsts = [run[0].reshape(-1)[:32].tolist() for run in ran.stream]
    return [
        f"{len(firsts)} runs, each from the state that the last one left",
        *(f"output {number} {first}" for number, first in enumerate(firsts)),
    ]


def _listened(folder: str, source: str) -> tuple[Result, str, int]:
    from micronets_jax import data, firmware

    heard = firmware.listen(folder, data.recordings.blocks(pathlib.Path(source)))
    result = {
        **dataclasses.asdict(heard),
        "instructions_per_second": heard.instructions_per_second,
    }
    lines = [f"{second:8.1f} s  {word:12} {share:6.1%}" for second, word, share in heard.words]
    lines += [
        f"{len(heard.words)} words in {heard.seconds:.1f} s; of {heard.steps} inferences "
        f"{heard.differing_outputs} bytes and {heard.differing_words} words differ from those on "
        f"this machine, features by {heard.feature_steps} steps at most",
        f"{heard.device} on {heard.machine}: {heard.instructions_per_second} instructions a second "
        f"of sound, {heard.core_share:.1%} of the core (an estimate); front end "
        f"{round(heard.frontend_instructions / heard.seconds)}, an inference "
        f"{round(heard.instructions / max(1, heard.steps))}; stack {heard.stack_bytes} bytes",
    ]
    wrong = bool(heard.differing_outputs or heard.differing_words)
    return result, "\n".join(lines), int(wrong)


def _ran_firmware(ran: Run) -> tuple[Result, str, int]:
    outputs = [output.reshape(-1).tolist() for output in ran.outputs]
    result = {
        **{
            field.name: getattr(ran, field.name)
            for field in dataclasses.fields(ran)
            if field.name not in ("outputs", "stream")
        },
        "output": outputs[0],
        "outputs": outputs,
        **_stream(ran),
    }
    lines = _layer_table(ran.layers)
    lines += [
        f"{ran.device} on {ran.machine}: {ran.instructions} instructions",
        f"flash {ran.flash_bytes}, RAM {ran.ram_bytes}, of it arena {ran.arena_bytes} and stack "
        f"{ran.stack_reserved} ({ran.stack_bytes} used) bytes",
        *(
            [
                f"front end: {ran.frontend_instructions} instructions, within {ran.feature_steps} "
                "steps of the one in Python"
            ]
            if ran.feature_steps is not None
            else []
        ),
        *_output_lines(ran),
        *ran.notes,
    ]
    return result, "\n".join(lines), int(bool(ran.differing_outputs))


def _flash(arguments: argparse.Namespace) -> tuple[Result, str]:
    from micronets_jax import firmware

    flashing = firmware.flash(arguments.folder)
    result = {"commands": list(flashing.commands), "ran": flashing.ran}
    if flashing.ran:
        return result, f"{flashing.ran}\nflashed and verified"
    lines = [f"make -C {arguments.folder}", *flashing.commands]
    return result, "\n".join(
        [*lines, "not run: neither is installed (Debian packages openocd, stlink-tools)"]
    )


def _layer_table(layers: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'layer':<40} {'kind':<13} {'MACs':>10} {'instructions':>12} {'per MAC':>8}"]
    for layer in layers:
        ratio = f"{layer['instructions'] / layer['macs']:.2f}" if layer["macs"] else ""
        lines.append(
            f"{layer['name'][:40]:<40} {layer['kind']:<13} {layer['macs']:>10} "
            f"{layer['instructions']:>12} {ratio:>8}"
        )
    return lines


def _inspect(arguments: argparse.Namespace) -> tuple[Result, str]:
    from micronets_jax import compile as compiler
    from micronets_jax.compile import report

    compiled = compiler.compile_model(
        _read(arguments.model),
        pathlib.Path(arguments.model).stem,
        plan=arguments.plan,
        rows=arguments.input == "rows",
    )
    result = _summary(compiled)
    buffers, steps = compiled.plan.buffers, compiled.step_of_layer
    live = [sum(b.size for b in buffers if b.first <= step <= b.last) for step in steps]
    result["layers"] = layers = [
        {
            "name": call.name, "kind": call.kind, "macs": 0 if call.continues else call.macs,
            "output": list(compiled.graph.values[call.output].shape), "live_bytes": bytes_,
            "step": step, "rows": rows["rows"],
        }
        for call, bytes_, step, rows in zip(
            compiled.calls, live, steps, compiled.manifest()["layers"], strict=True
        )
    ]  # fmt: skip
    result["plans"] = [dataclasses.asdict(point) for point in compiled.front]
    if arguments.picture:
        from micronets_jax.compile import report

        _write(arguments.picture, report.front_svg(compiled))
    peak = max(live, default=1)
    lines = [f"{'layer':<40} {'kind':<13} {'output':<18} {'MACs':>10}  bytes alive"]
    for layer in layers:
        bar = ("=" if layer["rows"] else "#") * max(1, round(30 * layer["live_bytes"] / peak))
        shape = "x".join(map(str, layer["output"]))
        lines.append(
            f"{layer['name'][:40]:<40} {layer['kind']:<13} {shape:<18} {layer['macs']:>10}  "
            f"{layer['live_bytes']:>8} {bar}"
        )
    lines += report.folding_lines(compiled.graph.foldings)
    lines.append(
        f"{compiled.macs} MACs; arena {compiled.arena_bytes} bytes (bound {compiled.plan.bound}; "
        f"tensors may share bytes); {_state(compiled)}weights and tables "
        f"{result['weights_bytes']} bytes; code about {compiled.code_bytes} bytes"
    )
    lines += ["", f"  {'arena':>8} {'instructions':>13}  what goes row by row (=)"]
    for point in compiled.front:
        mark = "*" if point.ram_bytes == compiled.arena_bytes else " "
        streams = [f"{first[:24]} to {last[:24]}" for first, last in point.streams]
        streams += [f"{point.singles} single layers"] if point.singles else []
        text = ", ".join(streams) or "none"
        lines.append(f"{mark} {point.ram_bytes:>8} {point.instructions:>13}  {text}")
    return result, "\n".join(lines)


def _calibrate(arguments: argparse.Namespace) -> tuple[Result, str]:
    import tempfile

    from micronets_jax import devices, latency_fit, protocol

    devices.own.rows()  # a damaged file is told before the board is flashed
    on = devices.device(arguments.device)
    with protocol.open_port(arguments.port):
        pass  # absent or busy: told before anything is built
    before = on.speed
    with tempfile.TemporaryDirectory() as folder:
        row, samples = latency_fit.speed(
            on.name, arguments.port, pathlib.Path(folder) / "firmware", latency_fit.flash
        )
    kept = devices.own.keep(row)
    asked = [
        {"network": f"{space} {index}", "cycles": sample.instructions}
        for (space, index), sample in zip(latency_fit.PROBES, samples, strict=True)
    ]
    lines = [f"{one['network']:<6} {one['cycles']:>12,} cycles" for one in asked]
    lines += [
        f"{row.device}: {row.factor:.3f} cycles per instruction, error of one network from the "
        f"others {row.error:.1%}, at most {row.largest:.0%}; it was {before.factor:.3f} "
        f"({before.basis})",
        f"{kept}: predictions go by it from now on; without the file they are as before",
    ]
    return {"file": str(kept), **row._asdict(), "networks": asked}, "\n".join(lines)


def _devices(arguments: argparse.Namespace) -> tuple[Result, str]:
    from micronets_jax import devices

    boards = list(devices.DEVICES.values())
    result = {
        "devices": [
            {
                **on.facts(),
                "emulated": on.emulated,
                "silicon": None if on.emulated else on.provenance,
            }
            for on in boards
        ],
        "published": [row._asdict() for row in devices.MEASURED],
        "own": [row._asdict() for row in devices.own.rows()],
        "provenance": devices.PROVENANCE,
    }
    lines = [
        f"{'device':<12} {'core':<13} {'clock':>8} {'SRAM':>9} {'flash':>9} "
        f"{'cycles per instruction':<23} {'power':>8}  boards"
    ]
    for on in boards:
        speed = on.speed
        cycles = f"{speed.factor:.3f}"
        if not on.emulated:
            cycles += f" ({speed.low:.2f} to {speed.high:.2f})"
        power = f"{on.power_mw:g} mW" if on.power_mw is not None else "unknown"
        lines.append(
            f"{on.name:<12} {on.core:<13} {on.clock_mhz:>4} MHz {on.sram_bytes // 1024:>5} KiB "
            f"{on.flash_bytes // 1024:>5} KiB {cycles:<23} {power:>8}  {', '.join(on.boards)}"
        )
    lines += [f"{what}: {source}" for what, source in devices.PROVENANCE.items()]
    real = [on for on in boards if not on.emulated]
    lines += ["", "cycles per instruction from:"]
    lines += [f"{on.name:<12} {on.speed.basis}" for on in real]
    lines += ["", "published builds, the error of each network predicted from the others:"]
    lines += map(_build_line, devices.MEASURED)
    if own := devices.own.rows():
        lines += ["", f"boards of {devices.own.path()}:", *map(_build_line, own)]
    lines += ["", "firmware of this library:"]
    lines += [f"{on.name:<12} {on.provenance}" for on in real]
    return result, "\n".join(lines)


def _build_line(row) -> str:
    return (
        f"{row.device:<12} {row.core:<11} {row.factor:.3f}, {row.rows} networks, error "
        f"{row.error:.1%}, at most {row.largest:.0%}: {row.what} ({row.source})"
    )


def _zoo(arguments: argparse.Namespace) -> tuple[Result, str]:
    from micronets_jax import zoo

    listed = zoo.rows()
    networks = [dataclasses.asdict(row) | {"published": row.published._asdict()} for row in listed]
    return {"networks": networks}, zoo.table(listed)


if __name__ == "__main__":
    sys.exit(main())
