"""Choice of width and resolution for a board: TinyNAS's first stage.

Invariant: nothing is trained. Spaces are ranked by the mean operations of members that fit: more
operations allow more accuracy. Source: Lin et al., "MCUNet", NeurIPS 2020, section 3.1.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from micronets_jax import accelerators, cost, decisions, recipes
from micronets_jax.counts import Condition
from micronets_jax.decisions import Choice
from micronets_jax.network import Network
from micronets_jax.spaces.mcunet import MCUNet

SAMPLES = 1000
"""Members drawn of each space, the paper's number."""

FEWEST = 200
"""Members of :data:`SAMPLES` that have to fit. Of fewer the mean is too uncertain (a fourteenth of
their deviation and more), and an evolution would search among what is left over. (Ours.)"""

AT_ONCE = 2
"""Programs compiled side by side."""


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """Members drawn of one space.

    Attributes:
        space: theirs.
        macs: multiply-accumulates of each.
        fits: whether it keeps all limits.
    """

    space: MCUNet
    macs: Int[np.ndarray, " members"]
    fits: Bool[np.ndarray, " members"]

    @property
    def kept(self) -> Int[np.ndarray, " fitting"]:
        """Multiply-accumulates of those that fit, rising."""
        return np.sort(self.macs[self.fits])

    @property
    def share(self) -> float:
        """Of the members, how many fit."""
        return float(self.fits.mean())

    @property
    def mean(self) -> float:
        """Multiply-accumulates of those that fit, on average; 0 where none does."""
        return float(self.kept.mean()) if self.fits.any() else 0.0

    def above(self, macs: float) -> float:
        """Of those that fit, the share with more multiply-accumulates."""
        return float(np.mean(self.kept > macs)) if self.fits.any() else 0.0

    def reached_by(self, share: float) -> float:
        """Multiply-accumulates that this share of those that fit reaches; 0 where none fits."""
        return float(np.quantile(self.kept, 1 - share)) if self.fits.any() else 0.0

    def __str__(self) -> str:
        return f"w{self.space.width:g}-r{self.space.input_shape[0]}"


def family(settings: recipes.Family, channels: int, num_classes: int) -> list[MCUNet]:
    """The spaces of these settings for pictures of so many channels, narrow ones first."""
    return [
        MCUNet(
            (side, side, channels),
            num_classes,
            width,
            depths=settings.depths,
            kernels=settings.kernels,
            expansions=settings.expansions,
        )
        for width in settings.widths
        for side in settings.sides
    ]


def survey(
    spaces: Sequence[MCUNet],
    fits: Callable[[Network], Condition],
    count: int = SAMPLES,
    seed: int = 0,
) -> list[Survey]:
    """Draw members of each space, cost each exactly.

    Spaces that differ in width alone share a program and one call. All are asked about the same
    draws, so that their differences owe less to chance.

    Args:
        spaces: in the order of the result.
        fits: whether a network keeps all limits, of traced networks too: ``Budget.fits``.
        count: members of each.
        seed: of the draws.

    Returns:
        MACs of the members of each space, int [count], and which fit, bool [count].
    """
    groups = collections.defaultdict(list)
    for space in spaces:
        groups[dataclasses.replace(space, width=1.0), _wiring(space)].append(space)

    def of_group(alike: list[MCUNet]) -> list[Survey]:
        first, *_ = alike
        drawn = decisions.uniform(np.random.default_rng(seed), first.decisions(), count)
        widths = np.asarray([space.widths for space in alike], np.int32)

        def one(choice: Choice, widths: Array) -> tuple[Array, Array]:
            network = first.network(choice, widths)
            return cost.macs(network), jnp.asarray(fits(network))

        over_members = jax.vmap(one, in_axes=(0, None))
        found = accelerators.once(jax.vmap(over_members, in_axes=(None, 0)), drawn, widths)
        macs, fitting = (np.asarray(leaf) for leaf in found)
        return [Survey(*row) for row in zip(alike, macs, fitting, strict=True)]

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        found = [one for group in pool.map(of_group, groups.values()) for one in group]
    by_space = {one.space: one for one in found}
    return [by_space[space] for space in spaces]


def best(surveys: Sequence[Survey], fewest: int = FEWEST) -> Survey:
    """The space whose fitting members have most operations on average.

    Args:
        surveys: from :func:`survey`.
        fewest: members that have to fit.

    Raises:
        ValueError: too few members of every space fit.
    """
    enough = [one for one in surveys if int(one.fits.sum()) >= fewest]
    if not enough:
        most = max(surveys, key=lambda one: one.share)
        raise ValueError(
            f"the limits leave too few members of every space: of {len(most.fits):,} drawn at most "
            f"{int(most.fits.sum())} fit, in {most}, and {fewest} are needed; raise the limits, or "
            "offer narrower spaces or smaller pictures"
        )
    return max(enough, key=lambda one: one.mean)


def records(surveys: Sequence[Survey]) -> list[dict[str, object]]:
    """What a report shows of each space, most operations first: its name, whether it was chosen,
    the share of members that fit, their mean operations, and their operations at each twentieth of
    their distribution.

    Args:
        surveys: the chosen space's first.
    """
    return [
        {
            "space": str(one),
            "chosen": one is surveys[0],
            "fit": one.share,
            "mean_mops": 2e-6 * one.mean,
            "mops": [2e-6 * one.reached_by(1 - i / 20) for i in range(21)],
        }
        for one in sorted(surveys, key=lambda one: -one.mean)
    ]


def table(surveys: Sequence[Survey], rows: int = 10) -> str:
    """The best spaces as text: millions of multiply-accumulates of members that fit."""
    lines = [f"{'space':<12}{'fit':>6}{'mean':>8}{'top 20 %':>10}"]
    for one in sorted(surveys, key=lambda one: -one.mean)[:rows]:
        lines.append(
            f"{one!s:<12}{one.share:>6.0%}{one.mean / 1e6:>8.2f}{one.reached_by(0.2) / 1e6:>10.2f}"
        )
    return "\n".join(lines)


def _wiring(space: MCUNet) -> tuple[bool, ...]:
    """Which stages begin with a sum, which widths decide."""
    return tuple(
        stage.stride == 1 and read == made
        for stage, read, made in zip(space.stages, space.widths[1:], space.widths[2:], strict=False)
    )
