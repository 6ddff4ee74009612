"""Memory: TFLM's planner by hand, against a twin, and against what the interpreter showed."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import memory, zoo
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.spaces import DSCNN, MobileNetV2
from micronets_jax.spaces.mobilenet_v2 import Stage
from micronets_jax.targets.tflm import layout, planner
from support.spaces import choices_of, decisions_of

SMALL = DSCNN(input_shape=(9, 2, 1), max_width=60, strides=(1, 2, 1, 2))
PAPER = DSCNN()
RESIDUAL = MobileNetV2((20, 17, 1), 3, 0.5, (Stage(1, 16, 1, 1), Stage(6, 24, 4, 2)), 32, 64)


def greedy(buffers):
    """TFLM's greedy planner in plain words: the twin of ``planner.place``."""
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].bytes, -i))
    start = {}
    for i in order:
        mine, offset = buffers[i], 0
        taken = sorted(
            (start[j], start[j] + buffers[j].bytes)
            for j in start
            if buffers[j].first <= mine.last and mine.first <= buffers[j].last
        )
        for begin, end in taken:
            if begin - offset >= mine.bytes:
                break
            offset = max(offset, end)
        start[i] = offset
    return [start[i] for i in range(len(buffers))]


def head(buffers, starts):
    return max(start + b.bytes for b, start in zip(buffers, starts, strict=True))


def test_by_hand():
    steps = layout.timeline(zoo.network("DSCNN-S"))
    assert [step.name for step in steps][:3] == ["stem", "block1_depthwise", "block1_pointwise"]
    assert (steps[0].kind, steps[1].kind) == ("CONV_2D", "DEPTHWISE_CONV_2D")
    assert steps[1].live_bytes == 49 * 10 * 64 + 25 * 5 * 64 == 39360
    assert {block.name: block.bytes for block in steps[-2].live} == {
        "block4_pointwise": 8000,
        "pool": 64,
        "pool scratch": 256,
    }


@pytest.mark.parametrize(
    ("widths", "strides", "head_bytes"),
    [
        ((64, 64, 64, 64, 64), (2, 1, 1, 1), 39360),
        ((84, 276, 276), (2, 1), 69024),
        # The planner puts both tensors of the widest layer first and has to put one more above.
        ((84, 276, 28), (2, 1), 79536),
        ((84, 276, 28, 248, 28, 220), (2, 1, 1, 1, 1), 79536),
        ((40, 100, 28, 96, 64), (1, 1, 1, 1), 98016),
        ((4, 8), (2,), 2480),
    ],
)
def test_heads_as_the_interpreter_reported_them(widths, strides, head_bytes):
    assert planner.head_bytes(zoo.dscnn(widths, strides), scratch=False) == head_bytes


@pytest.mark.parametrize("space", [SMALL, PAPER, DSCNN(strides=(1, 2))], ids=lambda s: s.strides)
@settings(max_examples=12, deadline=None)
@given(st.data(), st.booleans())
def test_chain_formula_planner_and_twin_agree(space, data, scratch):
    network = space.member(*data.draw(decisions_of(space)))
    buffers = planner.buffers(network, scratch)
    starts = planner.place(buffers)
    assert starts == greedy(buffers)
    assert planner.head_bytes(network, scratch) == head(buffers, starts)


@pytest.mark.parametrize("scratch", [True, False])
@pytest.mark.parametrize("space", [PAPER, DSCNN((32, 32, 1), stem_kernel=(3, 3))])
def test_spaces_of_chains_are_planned_by_the_formula(space, scratch):
    """Whatever is decided; sorting would cost some six hundred times as much."""
    network = space.supernetwork()
    assert memory.is_chain(network) and planner._scratch_is_small(network, scratch)


def test_scratch_larger_than_its_neighbours_is_left_to_the_planner():
    """Two columns of a stem of 10 x 4 are more than a channel of 9 x 2."""
    assert not planner._scratch_is_small(SMALL.supernetwork(), True)
    assert planner._scratch_is_small(SMALL.supernetwork(), False)


@functools.partial(jax.jit, static_argnums=1)
def traced_head(choice, scratch):
    return planner.head_bytes(RESIDUAL.network(choice), scratch)


@settings(max_examples=12, deadline=None)
@given(choices_of(RESIDUAL), st.booleans())
def test_residuals_are_placed_as_the_twin_places_them(choice, scratch):
    """Traced and known: a shortcut waits for its sum, and a pad comes and goes."""
    network = RESIDUAL.decode(choice)
    buffers = planner.buffers(network, scratch)
    assert planner.place(buffers) == greedy(buffers)
    bound = planner.head_bytes(network, scratch)
    assert bound == head(buffers, greedy(buffers))
    assert traced_head(choice, scratch) == bound
    peak = memory.peak_bytes(network, lambda o: scratch * planner.scratch_bytes(o))
    assert peak <= bound
    assert peak == max(step.live_bytes for step in layout.timeline(network, scratch))


def test_a_residual_by_hand():
    """8 x 8: the shortcut of 4 channels waits while the block is 24 wide, then grows to 8."""
    network = Network(
        (8, 8, 4),
        (
            Layer("expand", "conv", (INPUT,), 4, 24),
            Layer("depthwise", "depthwise", ("expand",), 24, 24, (3, 3)),
            Layer("project", "conv", ("depthwise",), 24, 8),
            Layer("pad", "pad", (INPUT,), 4, 8),
            Layer("add", "add", ("pad", "project"), 8, 8),
        ),
    )
    live = {step.name: step.live_bytes // 64 for step in layout.timeline(network)}
    assert live == {
        "expand": 4 + 24,
        "depthwise": 4 + 24 + 24,
        "project": 4 + 24 + 8,
        "pad": 4 + 8 + 8,
        "add": 8 + 8 + 8,
    }
    assert planner.head_bytes(network, scratch=False) == 64 * 52


@settings(max_examples=10, deadline=None)
@given(decisions_of(PAPER))
def test_blocks_of_a_moment_do_not_overlap(decisions):
    network = PAPER.member(*decisions)
    for step in layout.timeline(network):
        blocks = sorted(step.live, key=lambda block: block.start)
        for below, above in itertools.pairwise(blocks):
            assert below.start + below.bytes <= above.start


# The stem is read again after two other layers have run.
TWO_READERS = Network(
    (8, 8, 1),
    (
        Layer("stem", "conv", (INPUT,), 1, 16),
        Layer("one", "depthwise", ("stem",), 16, 16, (3, 3)),
        Layer("two", "conv", ("one",), 16, 32),
        Layer("again", "depthwise", ("stem",), 16, 16, (3, 3), (2, 2)),
    ),
)


def test_a_tensor_waits_for_its_last_reader():
    live = [{block.name for block in step.live} for step in layout.timeline(TWO_READERS)]
    assert live[2] == {"stem", "one", "two"}
    assert live[3] == {"stem", "again"}
    assert planner.head_bytes(TWO_READERS, scratch=True) == 64 * (16 + 16 + 32)


def test_the_lowest_gap_may_lie_above_all_the_bytes_beside_it():
    # The stem (144 bytes) meets 160 bytes of scratch from 0 on and block1_depthwise from 224 on.
    listed = planner.buffers(
        SMALL.member([8, 12, 60, 36, 24], [True, False, True, True]), scratch=True
    )
    places = dict(zip((b.name for b in listed), planner.place(listed), strict=True))
    assert places["stem"] == 368 and list(places.values()) == greedy(listed)


def test_any_wiring_inside_jit():
    traced = jax.tree.map(jnp.int32, TWO_READERS)
    assert jax.jit(lambda n: planner.head_bytes(n, scratch=True))(traced) == 4096
    # The general planner on a traced space, where blocks come and go.
    choices = [
        SMALL.choice([8, 12, 60, 36, 24], [True, False, True, True]),
        SMALL.choice([60, 12, 20, 36, 60], [False, True, False, False]),
    ]

    def planned(choice):
        buffers = planner.buffers(SMALL.network(choice), scratch=True)
        ends = [s + b.bytes for s, b in zip(planner.place(buffers), buffers, strict=True)]
        return jnp.stack([e * b.presence for e, b in zip(ends, buffers, strict=True)]).max()

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *choices)
    expected = [planner.head_bytes(SMALL.decode(choice), scratch=True) for choice in choices]
    assert jax.jit(jax.vmap(planned))(stacked).tolist() == expected


def test_one_pixel_before_a_dense_layer_is_not_reshaped():
    kinds = [operator.kind for operator in memory.operators(zoo.network("DSCNN-S"))]
    assert "RESHAPE" not in kinds and kinds[-2:] == ["AVERAGE_POOL_2D", "FULLY_CONNECTED"]
    network = Network(
        (4, 4, 3),
        (
            Layer("stem", "conv", (INPUT,), 3, 8),
            Layer("flatten", "reshape", ("stem",), 8, 128),
            Layer("logits", "dense", ("flatten",), 128, 2),
        ),
    )
    assert [operator.kind for operator in memory.operators(network)] == [
        "CONV_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
    ]
