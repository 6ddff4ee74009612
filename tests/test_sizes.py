"""Sizes: the stack read from machine code, and the table of kernels against linked firmware."""

import pathlib

import numpy as np
import pytest

from experiments import sizes as measuring
from micronets_jax import compile as compiler
from micronets_jax import export, firmware, latency_fit, sizes
from micronets_jax.firmware import FirmwareError, stack
from micronets_jax.spaces import MCUNet
from micronets_jax.targets.compiled import flash
from support.row_models import Net

EMULATED = ("mps2-an386", "mps2-an500")
MODELS = [
    "mcunet_10fps_vww", "micronet_kws_m", "mlperf_ad", "mlperf_ic_resnet8", "mlperf_kws_dscnn",
    "mlperf_vww",
]  # fmt: skip

LISTING = """
00000100 <caller>:
     100:\tpush\t{r4, r5, lr}
     102:\tsub\tsp, #20
     104:\tcmp\tr0, #0
     106:\tble.n\t110 <caller+0x10>
     108:\tbl\t200 <leaf>
     10c:\tb.w\t120 <caller+0x20>
     110:\tadd\tsp, #20
     112:\tldmia.w\tsp!, {r4, r5, lr}
     116:\tb.w\t300 <last>
     120:\tadd\tsp, #20
     122:\tpop\t{r4, r5, pc}
     124:\t.word\t0x00000301

00000200 <leaf>:
     200:\tstmdb\tsp!, {r4, r5, r6, r7, r8, r9, sl, fp, lr}
     204:\tvpush\t{d8-d9}
     208:\tstrd\tr0, r1, [sp, #-8]!
     20c:\tldr.w\tr2, [sp], #8
     210:\tvpop\t{d8-d9}
     214:\tldmia.w\tsp!, {r4, r5, r6, r7, r8, r9, sl, fp, pc}

00000300 <last>:
     300:\ttbb\t[pc, r0]
     304:\t.word\t0x00000302
     308:\tpush\t{r0, r1}
     30a:\tpop\t{r0, r1}
     30c:\tbx\tlr
"""


def test_stacks_by_hand():
    program = stack.parse(LISTING)
    assert program.function("leaf").frame == 9 * 4 + 2 * 8 + 8
    assert program.function("caller").frame == 3 * 4 + 20
    # A call while all is held, and one that comes last, when all was given back.
    assert program.function("caller").calls == {"leaf": 32, "last": 0}
    assert program.depth("last") == 8  # behind a table of jumps
    assert program.depth("caller") == 32 + 60
    assert program.depth("caller", without=["leaf"]) == 32
    assert program.held("caller", "leaf") == 32 and program.held("leaf", "last") is None
    far = stack.parse(LISTING.replace("bl\t200 <leaf>", "bl\t110 <caller+0x10>"))
    assert far.function("caller").calls == {"last": 0}  # and never back behind the jump


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("sub\tsp, #20", "sub\tsp, sp, r3"), "caller moves its stack by an unknown amount"),
        (("bl\t200 <leaf>", "bl\t100 <caller>"), "caller calls itself"),
        (("bl\t200 <leaf>", "blx\tr3"), None),  # only `last` can be meant
        (("tbb\t[pc, r0]", "blx\tr3"), "last calls through a pointer"),
    ],
)
def test_what_has_no_bound_is_refused(change, says):
    program = stack.parse(LISTING.replace(*change))
    if says is None:
        assert program.depth("caller") == 32 + 8
        return
    with pytest.raises(FirmwareError, match=says):
        program.depth("caller")


def test_the_table_names_every_kernel():
    known = set(sizes.table()["kernels"])
    declared = measuring.declared()
    assert declared and set(declared) <= known
    assert set(measuring.variants()) <= known


def test_what_kernels_share_is_counted_once():
    table = sizes.table()["kernels"]
    one = sizes.code_bytes([("depthwise_3_s1", "a", 1)])
    assert one == sum(table["depthwise_3_s1"]["flash"].values())
    two = sizes.code_bytes([("depthwise_3_s1", "a", 1), ("depthwise_3_s1", "b", 1)])
    own = {k: n for k, n in table["depthwise_3_s1"]["flash"].items() if "depthwise_3" in k}
    assert two - one == sum(own.values()) < one
    assert sizes.code_bytes([("depthwise_3_s1", "a", 1)] * 2) == one
    only = sizes.code_bytes([("depthwise_3_s1", "a", 0), ("mn_add", "mn_add", 1)])
    assert only == sum(table["mn_add"]["flash"].values()) > 0
    assert sizes.stack_bytes([("mn_conv", 1), ("mn_add", 1)]) == table["mn_conv"]["stack"]
    assert sizes.stack_bytes([("mn_conv", 0), ("mn_add", 1)]) == table["mn_add"]["stack"]


# ---------------------------------------------------------------- with the cross compiler

slow = pytest.mark.slow


@slow
def test_the_table_is_what_the_kernels_take():
    found = measuring.measure()
    assert "\n".join(measuring.differences(sizes.table(), found)) == ""


@slow
def test_faults_and_interrupts_fit_their_stack():
    """One within the other: the clock's interrupt ends in a fault, whose registers are saved."""
    from micronets_jax.reserves import HANDLER_STACK_BYTES

    needed = sizes.table()["firmware"]["handlers"] + sizes.INTERRUPT_BYTES
    assert needed <= HANDLER_STACK_BYTES


def check(model: bytes, plan: str, folder: pathlib.Path, rows: bool = False) -> None:
    """Stack at or up to 64 bytes above what is painted on both cores, and what machine code says;
    flash within a hundredth of what is linked. A push counts as a run, and takes less."""
    built = compiler.compile_model(model, plan=plan, rows=rows)
    kind = "rows" if rows else "plain"
    for device in EMULATED:
        predicted = firmware.write(model, device, folder, plan=plan, rows=rows)
        ran = firmware.run(folder, compare=False)
        stack_bytes = sizes.thread_stack_bytes(built.stack_bytes, kind) - sizes.INTERRUPT_BYTES
        assert ran.stack_reserved == stack_bytes + sizes.INTERRUPT_BYTES
        assert 0 <= stack_bytes - ran.stack_bytes <= (88 if rows else 64), device
        deepest = stack.read(folder / "build" / "firmware.elf").depth("core_prepare")
        assert ran.stack_bytes <= deepest <= stack_bytes
        # What counts rows is predicted with its alignment.
        assert predicted.ram_bytes - ran.ram_bytes in ((0, 8) if rows else (0,))
        assert 0 <= predicted.flash_bytes - ran.flash_bytes <= 0.01 * ran.flash_bytes, device


@slow
@pytest.mark.parametrize("plan", ["whole", "balanced", "memory"])
@pytest.mark.parametrize("name", MODELS)
def test_stack_and_flash_of_published_models(reference, name, plan, tmp_path):
    check((reference / "models" / f"{name}.tflite").read_bytes(), plan, tmp_path)


@slow
@pytest.mark.parametrize("name", ["mlperf_vww", "mlperf_ic_resnet8", "micronet_kws_m"])
def test_stack_of_a_model_that_takes_rows(reference, name, tmp_path):
    model = reference / "models" / f"{name}.tflite"
    check(model.read_bytes(), "memory", tmp_path, rows=True)


@slow
@pytest.mark.parametrize("lowest", [-127, -128])
def test_stack_and_flash_of_a_dense_end(lowest, tmp_path):
    """Of all its kernels a dense layer by rows goes deepest; with weights that do not fit a pair,
    too."""
    net = Net((1, 20, 12, 4))
    x = net.pool("MAX_POOL_2D", net.input)
    model = net.build(net.flat_dense(x, 7, scales=7, lowest=lowest))
    functions = [c.function for c in compiler.compile_model(model, plan="memory", rows=True).calls]
    assert functions == ["mn_max_pool_row", "mn_dense_row"]
    check(model, "memory", tmp_path, rows=True)


SPACES = {**latency_fit.SPACES, "mcunet": MCUNet((96, 96, 3), 2, 0.35)}


@slow
@pytest.mark.parametrize("name", SPACES)
def test_stack_and_flash_of_random_members(name, tmp_path):
    """As searches predict them, from the network alone: more of the stack where they cannot know
    that no scale is of 1/2 and more."""
    from micronets_jax import decisions

    rng = np.random.default_rng(64)
    for _ in range(4):
        network = SPACES[name].decode(decisions.uniform(rng, SPACES[name].decisions()))
        folded, ranges = latency_fit.random_weights(rng, network)
        for layer in folded.values():
            layer["bias"] = np.abs(layer["bias"]) + 0.5  # no channel is constant
        model = export.assemble(network, folded, ranges)
        check(model, "whole", tmp_path)
        built = compiler.compile_model(model)
        assert 0 <= flash.stack_bytes(network) - built.stack_bytes <= 32
        assert 0 <= flash.code_bytes(network) - built.code_bytes <= 64
