"""How much faster and smaller is compiled C than TensorFlow Lite Micro with CMSIS-NN?

    MICRONETS_REFERENCE=DIR python -m benchmarks.compile [--flash-budget BYTES] [--plan PLAN]

Instructions of one inference on emulated cores (arm-none-eabi-gcc 12.2.1 -O2, qemu 7.2), all
outputs equal byte by byte; RAM is arena and stack, that of the firmware around the model included,
against TFLM's arena; code is what is linked. The numbers are exact and do not depend on the
machine.

    core       model              instructions   of TFLM    RAM   of TFLM   code   weights
    cortex-m4  mlperf_kws_dscnn        3479440     0.452   8924     0.389   7824     32452
    cortex-m4  mlperf_ic_resnet8      14036880     0.470  34868     0.633   8056     84232
    cortex-m4  micronet_kws_m         17350200     0.482  70208     0.695   7748    135880
    cortex-m4  mcunet_10fps_vww        9908840     0.375  52132     0.315  12240    439491
    cortex-m4  mlperf_vww              6944760     0.288  42276     0.419   8752     48551
    cortex-m4  mlperf_ad                342640     0.588   1024     0.383   1564    291184
    cortex-m4  geometric mean                     0.432            0.453
    cortex-m7  mlperf_kws_dscnn        3480920     0.455   8924     0.389   7848     32452
    cortex-m7  mlperf_ic_resnet8      14055960     0.468  34868     0.633   8036     84232
    cortex-m7  micronet_kws_m         17354520     0.486  70208     0.695   7764    135880
    cortex-m7  mcunet_10fps_vww        9917320     0.378  52132     0.315  12252    439491
    cortex-m7  mlperf_vww              6949200     0.289  42276     0.419   8780     48551
    cortex-m7  mlperf_ad                342200     0.587   1016     0.380   1548    291184
    cortex-m7  geometric mean                     0.434            0.452

    layers on the Cortex-M4      instructions   per MAC
    conv                             42496720      1.12
    depthwise                         8521120      3.06
    add                                728440         -
    average_pool                       297440         -
    table                               15680         -
    softmax                              1960         -

Cycles of the inner loops by the Cortex-M4's instruction timings (Technical Reference Manual, 3.3.1:
a load 2, a multiple load 1 + words, a store behind the write buffer and all arithmetic 1, a taken
branch 3):

    inner loop                               instructions   cycles   MACs   cycles per MAC
    pointwise, 4 pixels x 2 channels x 8               55       78     64             1.22
    the same with int16 weights                        47       74     64             1.16
    dense, one pixel x 4 channels x 8                  34       46     32             1.44
    depthwise 3x3, two outputs                         37       51     18             2.83
    depthwise 5x5, two outputs                         65      109     50             2.18
    depthwise 7x7, two outputs                        105      184     98             1.88
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import pathlib
import tempfile

from micronets_jax import compile as compiler
from micronets_jax import firmware, tflite
from micronets_jax.compile import verify
from micronets_jax.firmware.inputs import noise

SEED = 12345  # of the input that the reference numbers were counted with

# Loads of one, two, three and four words, other instructions, MACs: of the assembly in csrc.
LOOPS = {
    "pointwise, 4 pixels x 2 channels x 8": ((5, 8, 0, 0), 42, 64),
    "the same with int16 weights": ((1, 12, 0, 0), 34, 64),
    "dense, one pixel x 4 channels x 8": ((2, 0, 0, 2), 30, 32),
    "depthwise 3x3, two outputs": ((2, 5, 0, 0), 30, 18),
    "depthwise 5x5, two outputs": ((3, 2, 5, 5), 50, 50),
    "depthwise 7x7, two outputs": ((3, 2, 14, 7), 79, 98),
}


def cycles(loads: tuple[int, int, int, int], others: int) -> tuple[int, int]:
    """Instructions and Cortex-M4 cycles of a loop body that ends with a taken branch."""
    total = sum(count * (1 + words) for words, count in enumerate(loads, 1))
    return sum(loads) + others, total + others + 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--flash-budget", type=int, default=0)
    parser.add_argument("--plan", choices=compiler.PLANS, default="whole")
    parser.add_argument("--input", choices=["whole", "rows"], default="whole")
    arguments = parser.parse_args()
    reference = pathlib.Path(os.environ["MICRONETS_REFERENCE"])
    rows = json.loads((reference / "reference" / "tflm_cmsisnn.json").read_text())["rows"]
    print("core       model              instructions   of TFLM    RAM   of TFLM   code   weights")
    kinds: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0])
    for core, column in (("cortex-m4", 2), ("cortex-m7", 3)):
        speed, memory = [], []
        for row in rows:
            model = (reference / "models" / f"{row[0]}.tflite").read_bytes()
            try:
                compiled = compiler.compile_model(
                    model, row[0], arguments.flash_budget, plan=arguments.plan,
                    rows=arguments.input == "rows",
                )  # fmt: skip
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
    print(f"\n{'inner loop':<40} instructions   cycles   MACs   cycles per MAC")
    for name, (loads, others, macs) in LOOPS.items():
        count, time = cycles(loads, others)
        print(f"{name:<40} {count:>12} {time:>8} {macs:>6} {time / macs:>16.2f}")


if __name__ == "__main__":
    main()
