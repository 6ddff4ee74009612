"""What does one search step cost beside a plain training step?

    python -m benchmarks.search_step

The PyTorch rows need the extra `peers`: pip install -e '.[peers]'.
Both sides see the same number of examples (a search step: half for weights, half for decisions), in
float32, one architecture per step, AdamW. Sides alternate within one process and the ratio is that
of the medians. The shape of the PyTorch comparison: seven blocks of 276 channels at 25 x 5.

Measured on two cores of a shared machine (2026-11-27, `--rounds 7`), search / plain in float and
with 8 bits: quick 0.98 and 0.98, paper 1.11 and 1.07, vww quick 1.03 and 1.00, vww 0.94 and 0.88,
ad 1.03 and 0.97. The goal is 1.2. At 7 x 276, 1.07 and 1.07; a plain step of PyTorch 2.13, channels
last, took 0.285 s there, our plain step 1.36 and our search step 1.45 times that (0.357 s, 1.09 and
1.18 times in an earlier run); the goal is 2.0.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import vww
from micronets_jax import recipes, search, supernet, training
from micronets_jax.budgets import Budget
from micronets_jax.recipes import Training
from micronets_jax.spaces import DSCNN, MobileNetV2

SPACES = {
    "quick": DSCNN(max_width=48, strides=(2, 2, 1, 1, 1, 1)),
    "paper": DSCNN(),
    "7 x 276 at 25 x 5": DSCNN((25, 5, 1), stem_kernel=(3, 3), strides=(1,) * 7),
    "vww quick": vww.PRESETS["quick"].space.build(
        (50, 50, 1), num_classes=2, mops=vww.PRESETS["quick"].budget.mops
    ),
    "vww": MobileNetV2(),
    "ad": DSCNN((32, 32, 1), 4, stem_kernel=(3, 3), strides=(2, 1, 1, 2, 2)),
}
"""Of keyword spotting, of the comparison with PyTorch, of the other tasks."""

Subject = DSCNN | MobileNetV2


@dataclasses.dataclass(frozen=True)
class Options:
    """Time search steps against plain training steps."""

    spaces: tuple[str, ...] = tuple(SPACES)
    """Which of the table's."""
    batch_size: int = 64
    """Examples per step on every side."""
    rounds: int = 15
    """Measurements of each side."""
    torch: bool = True
    """Also time PyTorch, if it is installed."""


def main() -> None:
    """Print one row per space and setting."""
    options = tyro.cli(Options, description=__doc__)
    print(f"{'space':20} {'bits':>5} {'plain s':>8} {'search s':>9} {'ratio':>6}")
    for name in options.spaces:
        space = SPACES[name]
        for bits in (0, 8):
            plain, search = compare(
                [plain_step(space, options, bits), search_step(space, options, bits)],
                options.rounds,
            )
            print(
                f"{name:20} {bits or '-':>5} {plain:8.3f} {search:9.3f} {search / plain:6.2f}",
                flush=True,
            )
    if options.torch:
        versus_torch(options)


def compare(sides: list[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds of each side, measured in turns."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(2):
        for side in sides:
            side()
    for _ in range(rounds):
        for side, times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def examples(space: Subject, count: int) -> tuple[jax.Array, jax.Array]:
    """Random features and labels."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(count, *space.input_shape)), jnp.float32)
    return x, jnp.asarray(rng.integers(0, space.num_classes, count))


def plain_step(space: Subject, options: Options, bits: int) -> Callable[[], None]:
    """A training step of the largest network."""
    network = space.largest()
    fresh = supernet.init(jax.random.key(0), network)
    recipe = Training(batch_size=options.batch_size)
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, 1000)
    step = jax.jit(
        training.make_step(
            training.float_model(network, bits or None),
            training.as_prepared,
            recipe,
            1000,
            jax.random.key(0),
        )
    )
    x, labels = examples(space, options.batch_size)
    return lambda: jax.block_until_ready(step(state, x, labels))


def search_step(space: Subject, options: Options, bits: int) -> Callable[[], None]:
    """A step of the search, decisions included."""
    settings = recipes.DNAS(bits=bits, warmup=0.0, batch_size=options.batch_size)
    budget = Budget(sram_bytes=100_000, flash_bytes=200_000, mops=10.0)
    half = options.batch_size // 2
    x, labels = examples(space, options.batch_size)
    batch = search.Batch(x[:half], labels[:half], x[half:], labels[half:])
    arrays = [np.asarray(leaf) for leaf in batch]
    halves = (
        training.Prepared([(arrays[0], arrays[1])], 1),
        training.Prepared([(arrays[2], arrays[3])], 1),
    )
    made = search.of(
        settings, search.Problem(space, budget, halves, training.as_prepared, jnp.asarray, seed=0)
    )
    state, step = made.init(jax.random.key(0)), jax.jit(made.step)
    return lambda: jax.block_until_ready(step(state, batch))


def versus_torch(options: Options) -> None:
    """The same network's plain step in PyTorch, measured in turns with ours."""
    try:
        import torch  # pyright: ignore[reportMissingImports] # of the extra peers
    except ImportError:
        print("PyTorch is not installed: pip install 'micronets_jax[peers]'")
        return
    space = DSCNN((25, 5, 1), stem_kernel=(3, 3), strides=(1,) * 7)
    torch.manual_seed(0)
    width, nn = space.max_width, torch.nn

    def block(inputs: int, kernel: int, groups: int) -> list:
        convolution = nn.Conv2d(
            inputs, width, kernel, padding=kernel // 2, groups=groups, bias=False
        )
        return [convolution, nn.BatchNorm2d(width), nn.ReLU()]

    body = [
        layer
        for _ in range(space.num_blocks)
        for layer in block(width, 3, width) + block(width, 1, 1)
    ]
    head = [nn.AvgPool2d((25, 5)), nn.Flatten(), nn.Linear(width, space.num_classes)]
    x, labels = (torch.from_numpy(np.asarray(a)) for a in examples(space, options.batch_size))
    x, labels = x.permute(0, 3, 1, 2), labels.long()
    rows = {}
    for name, layout in (
        ("channels first", torch.contiguous_format),
        ("channels last", torch.channels_last),
    ):
        model = nn.Sequential(*block(1, 3, 1), *body, *head).to(memory_format=layout)
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        arranged = x.contiguous(memory_format=layout)

        def step(model=model, optimizer=optimizer, arranged=arranged) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(arranged), labels).backward()
            optimizer.step()

        rows[name] = step
    ours = [plain_step(space, options, 0), search_step(space, options, 0)]
    *peers, plain, search = compare([*rows.values(), *ours], options.rounds)
    print(f"\nPyTorch {torch.__version__}, {torch.get_num_threads()} threads, plain step:")
    for name, seconds in zip(rows, peers, strict=True):
        print(
            f"  {name:15} {seconds:.3f} s; our plain step {plain / seconds:.2f} times, "
            f"our search step {search / seconds:.2f} times that"
        )


if __name__ == "__main__":
    main()
