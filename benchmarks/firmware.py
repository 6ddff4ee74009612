"""How near are the predicted sizes of firmware to the linked ones?

    MICRONETS_REFERENCE=DIR python -m benchmarks.firmware
    MICRONETS_REFERENCE=DIR TFLM_INCLUDE=A:B:C TFLM_M4=a TFLM_M7=b python -m benchmarks.firmware

Predicted against linked bytes, arena against what the interpreter says it used, instructions of
one inference; outputs are equal to those of TensorFlow Lite Micro on this machine everywhere. The
second form adds the runtime tflm, with libraries of the target cortex_m_generic, default build
(TFLM 90b983c, CMSIS-NN 99f736a). arm-none-eabi-gcc 12.2.1, qemu 7.2; the numbers do not depend on
the machine.

    runtime  core model               flash   off by     RAM   off by   arena   off by instructions
    compiled m4   mlperf_kws_dscnn    43576  +0.03 %   11736  +0.00 %    8512  +0.00 %      3481920
    compiled m4   micronet_kws_m     147000  -0.05 %   73024  +0.00 %   69788  +0.00 %     17374400
    compiled m4   mlperf_ic_resnet8   95616  +0.31 %   37696  +0.00 %   34448  +0.00 %     14048960
    compiled m4   mcunet_10fps_vww   459120  +0.03 %   55224  +0.00 %   51672  +0.00 %      9913360
    compiled m7   mlperf_kws_dscnn    43640  -0.07 %   11736  +0.00 %    8512  +0.00 %      3483600
    compiled m7   micronet_kws_m     147000  -0.03 %   73024  +0.00 %   69788  +0.00 %     17376840
    compiled m7   mlperf_ic_resnet8   95616  +0.33 %   37696  +0.00 %   34448  +0.00 %     14062080
    compiled m7   mcunet_10fps_vww   459184  +0.02 %   55224  +0.00 %   51672  +0.00 %      9929360
    tflm     m4   mlperf_kws_dscnn   170403  -0.03 %   29296  +0.00 %   22820  +0.02 %      7701240
    tflm     m4   micronet_kws_m     272914  -0.01 %  108144  +0.00 %  100948  +0.00 %     36008440
    tflm     m4   mlperf_ic_resnet8  209316  -0.02 %   61832  +0.00 %   54996  +0.01 %     29864800
    tflm     m4   mcunet_10fps_vww   674283  -0.00 %  174208  +0.00 %  165492  -0.01 %     26452840
    tflm     m7   mlperf_kws_dscnn   168269  +0.00 %   29296  +0.00 %   22820  +0.02 %      7647000
    tflm     m7   micronet_kws_m     270444  +0.01 %  108144  +0.00 %  100948  +0.00 %     35735880
    tflm     m7   mlperf_ic_resnet8  207112  +0.00 %   61832  +0.00 %   54996  +0.01 %     30027600
    tflm     m7   mcunet_10fps_vww   671159  +0.01 %  174208  +0.00 %  165492  -0.01 %     26232880
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile

from benchmarks.reference import reference_folder
from micronets_jax import firmware

MODELS = ("mlperf_kws_dscnn", "micronet_kws_m", "mlperf_ic_resnet8", "mcunet_10fps_vww")


def row(runtime: str, device: str, model: pathlib.Path, library: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        firmware.write(
            model.read_bytes(), device, folder, runtime=runtime, title=model.stem,
            tflm_library=library,
        )  # fmt: skip
        fit, ran = firmware.check(folder), firmware.run(folder)
        manifest = json.loads((pathlib.Path(folder) / "manifest.json").read_text())
    assert ran.differing_outputs == 0, "not the bytes of TFLM"
    arena = sum(manifest.get("arena_predicted", {"all": manifest["arena_bytes"]}).values())
    numbers = [
        f"{found:>7} {100 * (predicted / found - 1):+6.2f} %"
        for predicted, found in (
            (fit.flash_predicted, fit.flash_linked),
            (fit.ram_predicted, fit.ram_linked),
            (arena, ran.arena_used),
        )
    ]
    core = manifest["core"].removeprefix("cortex-")
    return f"{runtime:<8} {core:<4} {model.stem:<17} {' '.join(numbers)} {ran.instructions:>12}"


def main() -> None:
    models = [reference_folder() / "models" / m for m in MODELS]
    boards = (("mps2-an386", os.environ.get("TFLM_M4")), ("mps2-an500", os.environ.get("TFLM_M7")))
    print(
        f"{'runtime':<8} {'core':<4} {'model':<17} {'flash':>7} {'off by':>8} {'RAM':>7} "
        f"{'off by':>8} {'arena':>7} {'off by':>8} {'instructions':>12}"
    )
    for runtime in ("compiled", "tflm"):
        for device, library in boards:
            for model in models:
                if runtime == "compiled" or library:
                    print(row(runtime, device, model.with_suffix(".tflite"), library), flush=True)


if __name__ == "__main__":
    main()
