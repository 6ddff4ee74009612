"""How much faster and smaller is compiled C than TensorFlow Lite Micro with CMSIS-NN?

    MICRONETS_REFERENCE=DIR python -m benchmarks.compile [--flash-budget BYTES] [--plan PLAN]
    python -m benchmarks.compile --time MODEL...   (how long compiling takes, nothing else)
    MICRONETS_REFERENCE=DIR python -m benchmarks.compile --vectors [--plan PLAN]   (Cortex-M55)
    MICRONETS_REFERENCE=DIR [TFLM_INCLUDE=A:B:C TFLM_M3=LIBRARY TFLM_M0PLUS=LIBRARY] \\
        python -m benchmarks.compile --portable [--plan PLAN]   (Cortex-M3 and M0+)

Instructions of one inference on emulated cores (arm-none-eabi-gcc 12.2.1 -O2, qemu 7.2), all
outputs equal byte by byte; RAM is arena and stack, that of the firmware around the model included,
against TFLM's arena; code is what is linked. The numbers are exact and do not depend on the
machine.

    core       model              instructions   of TFLM    RAM   of TFLM   code   weights
    cortex-m4  mlperf_kws_dscnn        3162160     0.411   8876     0.387   9724     32452
    cortex-m4  mlperf_ic_resnet8      12744280     0.427  34820     0.632   9764     84232
    cortex-m4  micronet_kws_m         15702560     0.436  70160     0.694   9620    135880
    cortex-m4  mcunet_10fps_vww        9164440     0.347  52100     0.315  14000    439491
    cortex-m4  mlperf_vww              6292360     0.261  42228     0.419  10640     48551
    cortex-m4  mlperf_ad                311080     0.534   1024     0.383   1836    291184
    cortex-m4  geometric mean                     0.393            0.452
    cortex-m7  mlperf_kws_dscnn        3163480     0.414   8876     0.387   9756     32452
    cortex-m7  mlperf_ic_resnet8      12762600     0.425  34820     0.632   9752     84232
    cortex-m7  micronet_kws_m         15706480     0.440  70160     0.694   9636    135880
    cortex-m7  mcunet_10fps_vww        9173840     0.350  52108     0.315  14016    439491
    cortex-m7  mlperf_vww              6294800     0.262  42228     0.419  10676     48551
    cortex-m7  mlperf_ad                311080     0.534   1024     0.383   1856    291184
    cortex-m7  geometric mean                     0.395            0.452

    layers on the Cortex-M4      instructions   per MAC
    conv                             38672000      1.02
    depthwise                         7660040      2.75
    add                                728280         -
    average_pool                       297440         -
    table                               15680         -
    softmax                              2000         -

Cycles by the Cortex-M4's instruction timing (``benchmarks.cycles`` says how far to trust it),
beside what engines were measured to take on a NUCLEO-L4R5ZI (MLPerf Tiny, ms times clock):

    million cycles       estimate  per instruction        ST  Plumerai
    mlperf_kws_dscnn         4.43             1.40      5.18      5.73
    mlperf_ic_resnet8       18.11             1.42     19.81     20.14
    mlperf_vww               8.96             1.42     10.67     11.85
    mlperf_ad                0.43             1.37      0.63      0.49

    function                        instructions     cycles
    product4_positive                   10228520   14467832
    product4_signed                      6113792    8703872
    depthwise_3x3_s11_positive_fours_rows      1638106    2257575
    widen                                1282368    1769769
    lay                                   439970     730729
    mn_add                                545005     717193
    mn_gather_plane                       484811     643744
    copy_runs                             345995     521419

Theirs are silicon with the wait states of flash, ours is not: no board has run this code.

With --vectors, instructions of the vector extension's kernels, as a share of the DSP extension's:

    model                cortex-m4 cortex-m55  share
    mlperf_kws_dscnn       3162160    1026343  0.325
    mlperf_ic_resnet8     12744280    3188343  0.250
    micronet_kws_m        15702560    4585937  0.292
    mcunet_10fps_vww       9164440    3619312  0.395
    mlperf_vww             6292360    2390750  0.380
    mlperf_ad               311080      79312  0.255
    geometric mean                             0.311

With --portable, instructions of the kernels in C on cores without either extension, and, where
libraries are named, those of TensorFlow Lite Micro's reference kernels, built at -O2 for the same
core (TFLM 90b983c, target cortex_m_generic without CMSIS-NN):

    core          model              instructions        TFLM share
    cortex-m3     mlperf_kws_dscnn        8837600   198688400 0.044
    cortex-m3     mlperf_ic_resnet8      35461280   824235640 0.043
    cortex-m3     micronet_kws_m         45781640  1157212520 0.040
    cortex-m3     mcunet_10fps_vww       24219480   471451280 0.051
    cortex-m3     mlperf_vww             16875320   552558160 0.031
    cortex-m3     mlperf_ad                680840     1953360 0.349
    cortex-m3     geometric mean                              0.059
    cortex-m0plus mlperf_kws_dscnn       23278680   272754120 0.085
    cortex-m0plus mlperf_ic_resnet8      97259440  1121361040 0.087
    cortex-m0plus micronet_kws_m        124030520  1567416840 0.079
    cortex-m0plus mcunet_10fps_vww       61364800   660677880 0.093
    cortex-m0plus mlperf_vww             42201800   765909680 0.055
    cortex-m0plus mlperf_ad               1175760     3405800 0.345
    cortex-m0plus geometric mean                              0.101
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import pathlib
import tempfile
import time

from benchmarks import cycles
from benchmarks.reference import reference_folder
from micronets_jax import compile as compiler
from micronets_jax import devices, firmware, tflite
from micronets_jax.compile import verify
from micronets_jax.firmware import link
from micronets_jax.firmware.inputs import noise

SEED = 12345  # of the input that the reference numbers were counted with


def print_times(models: list[pathlib.Path]) -> None:
    """Processor time of ``micronets compile``, without the start of Python."""
    print(f"\n{'compiling':<28} {'bytes':>10} {'seconds':>8}")
    for path in models:
        started = time.process_time()
        compiled = compiler.compile_model(path.read_bytes(), path.stem, plan="balanced")
        with tempfile.TemporaryDirectory() as folder:
            compiler.write(compiled, folder)
        seconds = time.process_time() - started
        print(f"{path.stem[:28]:<28} {path.stat().st_size:>10} {seconds:>8.1f}")


ENGINES = {"ST 9.0": "ST", "Plumerai 2023.05": "Plumerai"}
"""Rows of ``engines.json`` on the Cortex-M4 that cycles are listed beside."""


def print_cycles(reference: pathlib.Path, flash_budget: int, plan: str) -> None:
    """The models of MLPerf Tiny: cycles of an inference, beside published ones, and by function."""
    published = json.loads((reference / "reference" / "engines.json").read_text())
    rows = [dict(zip(published["columns"], row, strict=True)) for row in published["rows"]]
    rows = [row for row in rows if row["core"] == "cortex-m4" and row["engine"] in ENGINES]
    board = devices.emulated("cortex-m4")
    functions: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    print(f"\n{'million cycles':<20} {'estimate':>8} {'per instruction':>16}", end="")
    print("".join(f" {ENGINES[row['engine']]:>9}" for row in rows))
    with tempfile.TemporaryDirectory() as folder:
        plugin = cycles.built(folder)
        for name in ("kws_dscnn", "ic_resnet8", "vww", "ad"):
            model = (reference / "models" / f"mlperf_{name}.tflite").read_bytes()
            place = pathlib.Path(folder) / name
            firmware.write(model, board.name, place, flash_budget=flash_budget, plan=plan)
            counted = cycles.count(link.build(place).elf, board, plugin)
            for function, count in counted.items():
                functions[function] = [
                    a + b for a, b in zip(functions[function], count, strict=True)
                ]
            total = cycles.total(counted)
            print(
                f"mlperf_{name:<13} {total.cycles / 1e6:>8.2f} "
                f"{total.cycles / total.instructions:>16.2f}"
                + "".join(
                    f" {row[name.partition('_')[0] + '_ms'] * row['mhz'] / 1e3:>9.2f}"
                    for row in rows
                )
            )
    print(f"\n{'function':<31} instructions     cycles")
    for function, (instructions, took) in sorted(functions.items(), key=lambda f: -f[1][1])[:8]:
        print(f"{function.partition('.')[0]:<31} {instructions:>12} {took:>10}")


def print_vectors(reference: pathlib.Path, names: list[str], plan: str) -> None:
    """Instructions on a core with the vector extension, beside those on a core without it."""
    shares = []
    print(f"{'model':<20} {'cortex-m4':>9} cortex-m55  share")
    for name in names:
        model = (reference / "models" / f"{name}.tflite").read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            compiler.write(compiler.compile_model(model, name, plan=plan), folder)
            usual, ran = (
                firmware.run(folder, f"lcg:{SEED}", core=core)
                for core in ("cortex-m4", "cortex-m55")
            )
        assert (usual.outputs[0] == ran.outputs[0]).all(), "not the same bytes"
        shares.append(ran.instructions / usual.instructions)
        print(f"{name:<20} {usual.instructions:>9} {ran.instructions:>10} {shares[-1]:>6.3f}")
    mean = math.exp(sum(map(math.log, shares)) / len(shares))
    print(f"{'geometric mean':<41} {mean:>6.3f}")


PORTABLE = {"cortex-m3": "TFLM_M3", "cortex-m0plus": "TFLM_M0PLUS"}
"""Cores without the DSP extension, and what names TFLM's library for them."""


def print_portable(reference: pathlib.Path, names: list[str], plan: str) -> None:
    """Instructions of kernels in C, as a share of those of TFLM's reference kernels."""
    print(f"{'core':<13} {'model':<18} {'instructions':>12} {'TFLM':>11} share")
    for core, variable in PORTABLE.items():
        shares = []
        for name in names:
            model = (reference / "models" / f"{name}.tflite").read_bytes()
            with tempfile.TemporaryDirectory() as folder:
                ours, theirs = pathlib.Path(folder) / "ours", pathlib.Path(folder) / "theirs"
                compiler.write(compiler.compile_model(model, name, plan=plan), ours)
                ran = firmware.run(ours, f"lcg:{SEED}", core=core)
                row = f"{core:<13} {name:<18} {ran.instructions:>12}"
                if variable in os.environ:
                    firmware.write(
                        model, devices.emulated(core).name, theirs, runtime="tflm",
                        tflm_library=os.environ[variable],
                    )  # fmt: skip
                    usual = firmware.run(theirs, f"lcg:{SEED}")
                    assert (usual.outputs[0] == ran.outputs[0]).all(), "not the same bytes"
                    shares.append(ran.instructions / usual.instructions)
                    row += f" {usual.instructions:>11} {shares[-1]:>5.3f}"
            print(row, flush=True)
        if shares:
            mean = math.exp(sum(map(math.log, shares)) / len(shares))
            print(f"{core:<13} {'geometric mean':<43} {mean:>5.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--flash-budget", type=int, default=0)
    parser.add_argument("--plan", choices=compiler.PLANS, default="whole")
    parser.add_argument("--input", choices=["whole", "rows"], default="whole")
    parser.add_argument("--vectors", action="store_true")
    parser.add_argument("--portable", action="store_true")
    parser.add_argument("--time", type=pathlib.Path, nargs="+", metavar="MODEL")
    arguments = parser.parse_args()
    if arguments.time:
        print_times(arguments.time)
        return
    reference = reference_folder()
    rows = json.loads((reference / "reference" / "tflm_cmsisnn.json").read_text())["rows"]
    if arguments.vectors:
        print_vectors(reference, [row[0] for row in rows], arguments.plan)
        return
    if arguments.portable:
        print_portable(reference, [row[0] for row in rows], arguments.plan)
        return
    print("core       model              instructions   of TFLM    RAM   of TFLM   code   weights")
    kinds: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0])
    for core, column in (("cortex-m4", 2), ("cortex-m7", 3)):
        speed, memory = [], []
        for row in rows:
            model = (reference / "models" / f"{row[0]}.tflite").read_bytes()
            try:
                compiled = compiler.compile_model(
                    model,
                    row[0],
                    arguments.flash_budget,
                    plan=arguments.plan,
                    rows=arguments.input == "rows",
                )
            except tflite.TFLiteError as error:  # a dense network has no rows
                print(f"{core:<10} {row[0]:<18} {error}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                compiler.write(compiled, folder)
                ran = firmware.run(folder, f"lcg:{SEED}", core=core)
            entry = compiled.interface()[0]
            case = noise(entry["bytes"], SEED).view(entry["dtype"]).reshape(entry["shape"])
            ((want,),) = verify.Reference(model).run([[case]], compiled.interface())
            assert (ran.outputs[0].reshape(-1) == want.reshape(-1)).all(), "not the bytes of TFLM"
            ram = ran.arena_bytes + ran.stack_bytes
            speed.append(ran.instructions / row[column])
            memory.append(ram / row[4])
            print(
                f"{core:<10} {row[0]:<18} {ran.instructions:>12} {speed[-1]:>9.3f} {ram:>6} "
                f"{memory[-1]:>9.3f} {ran.code_bytes:>6} {ran.weights_bytes:>9}"
            )
            for layer in ran.layers if core == "cortex-m4" else ():
                kinds[layer["kind"]][0] += layer["instructions"]
                kinds[layer["kind"]][1] += layer["macs"]
        means = [math.exp(sum(map(math.log, x)) / len(x)) for x in (speed, memory)]
        print(f"{core:<10} geometric mean {means[0]:>25.3f} {means[1]:>16.3f}")
    print("\nlayers on the Cortex-M4      instructions   per MAC")
    for kind, (instructions, macs) in sorted(kinds.items(), key=lambda item: -item[1][0]):
        ratio = f"{instructions / macs:.2f}" if macs else "-"
        print(f"{kind:<28} {instructions:>12.0f} {ratio:>9}")
    print_cycles(reference, arguments.flash_budget, arguments.plan)


if __name__ == "__main__":
    main()
