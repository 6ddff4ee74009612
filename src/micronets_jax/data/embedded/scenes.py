"""Rendered scenes with and without people: data for trying things without a download.

Invariant: the same parameters give the same bytes, however many processors share the work, and
both classes have the same backgrounds, colours, clutter, light and noise.

Everything is drawn with one brush, a capsule whose ends may differ in width, from back to front. A
person is an articulated figure: head, trunk, arms and legs with joints that bend only as joints do,
standing, walking, sitting, reaching, seen near or far, dressed, partly hidden or cut by the frame.
What stands where no person is has the same parts in the wrong places: posts with globes, trees,
quadrupeds, chairs, bottles, coats on a stand, heaps of limbs. So neither a colour nor a shape alone
tells, and how much of the arrangement a network grasps decides.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os

import numpy as np
from jaxtyping import Float32, UInt8

from micronets_jax.data.dataset import SPLITS, DataError

CLASS_NAMES = ("not_person", "person")
CHUNK = 32  # scenes drawn together: their pixels stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class Scenes:
    """What to draw.

    Attributes:
        seed: another seed is another world.
        train, validation, test: scenes per split, half of them with a person.
        rows, columns, channels: of a scene; one channel is grey, three are red, green, blue.
    """

    seed: int = 0
    train: int = 18_000
    validation: int = 1000
    test: int = 2000
    rows: int = 50
    columns: int = 50
    channels: int = 1

    def __post_init__(self) -> None:
        for field in SPLITS:
            if getattr(self, field) < 4:
                raise DataError(f"{field}={getattr(self, field)}: give at least 4 scenes")
        if min(self.rows, self.columns) < 16:
            raise DataError(
                f"{self.rows}x{self.columns} is too small to see anybody; give 16 or more"
            )
        if self.channels not in (1, 3):
            raise DataError(f"channels={self.channels}: give 1 (grey) or 3 (colour)")


SIZES = {
    "tiny": Scenes(train=480, validation=160, test=240),
    "quick": Scenes(),
    "paper": Scenes(train=40_000, validation=4000, test=8000),
}
"""Parameters by preset."""

Stroke = tuple[float, ...]
"""Of the brush: ends x, y, x, y, half widths there, red, green, blue; lengths in frame heights."""


def generate(spec: Scenes) -> dict[str, np.ndarray]:
    """``<split>_examples`` uint8 [n, rows, columns, channels] and ``<split>_labels`` int32 [n]."""
    out: dict[str, np.ndarray] = {}
    jobs = []
    for place, split in enumerate(SPLITS):
        n = getattr(spec, split)
        rng = np.random.default_rng([spec.seed, place])
        labels = rng.permutation(np.arange(n) % 2).astype(np.int32)
        images = np.empty((n, spec.rows, spec.columns, spec.channels), np.uint8)
        out |= {f"{split}_examples": images, f"{split}_labels": labels}
        for number, start in enumerate(range(0, n, CHUNK)):
            rows = slice(start, min(start + CHUNK, n))
            jobs.append((images, rows, labels[rows], [spec.seed, place, 1 + number]))

    def work(job) -> None:
        images, rows, labels, seed = job
        images[rows] = _draw(labels, spec, np.random.default_rng(seed))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, jobs))
    return out


def _draw(
    labels: np.ndarray, spec: Scenes, rng: np.random.Generator
) -> UInt8[np.ndarray, "scenes rows columns channels"]:
    wide = spec.columns / spec.rows
    scenes = [_compose(bool(label), wide, rng) for label in labels]
    most = max(map(len, scenes))
    strokes = np.zeros((most, len(labels), 9), np.float32)
    strokes[:, :, :4] = -9  # far away and thin: nothing
    for i, scene in enumerate(scenes):
        strokes[: len(scene), i] = scene
    y, x = np.meshgrid(
        (np.arange(spec.rows, dtype=np.float32) + 0.5) / spec.rows,
        (np.arange(spec.columns, dtype=np.float32) + 0.5) / spec.rows,
        indexing="ij",
    )
    pixels = _background(len(labels), x, y, wide, rng)
    for stroke in strokes:
        _paint(pixels, x, y, stroke, 1.2 / spec.rows)
    return _photograph(pixels, x, y, spec, rng)


def _paint(
    pixels: Float32[np.ndarray, "scenes rows columns 3"],
    x: np.ndarray,
    y: np.ndarray,
    stroke: Float32[np.ndarray, "scenes 9"],
    blur: float,
) -> None:
    """One stroke on each scene, lit from the upper left, with soft edges; in place."""
    x0, y0, x1, y1, r0, r1 = (stroke[:, i, None, None] for i in range(6))
    dx, dy = x1 - x0, y1 - y0
    px, py = x - x0, y - y0
    along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    radius = r0 + (r1 - r0) * along
    px -= along * dx
    py -= along * dy
    distance = np.sqrt(px * px + py * py)
    cover = np.clip((radius - distance) / blur + 0.5, 0, 1) * (radius > 0)
    light = 1 - 0.3 * np.clip((px + py) / (radius + 1e-3), -1, 1)
    for c in range(3):
        pixels[..., c] += cover * (stroke[:, 6 + c, None, None] * light - pixels[..., c])


# ---------------------------------------------------------------- what a scene holds


def _compose(person: bool, wide: float, rng: np.random.Generator) -> list[Stroke]:
    """Strokes from back to front: clutter, the subject among others, what hides a part of them."""
    strokes: list[Stroke] = []
    for _ in range(rng.integers(1, 4)):
        strokes += _clutter(wide, rng)
    things = [_thing(wide, rng) for _ in range(rng.integers(1, 3) + (not person))]
    if person:
        people = [_person(wide, rng) for _ in range(1 + (rng.random() < 0.2))]
        for body in people:
            behind = 0 if rng.random() < 0.75 else int(rng.integers(0, len(things) + 1))
            things.insert(len(things) - behind, body)
    for thing in things:
        strokes += thing
    if rng.random() < 0.5:
        strokes += _foreground(wide, rng)
    return strokes


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Cloth, paint, leaves: any lightness, seldom garish."""
    grey = rng.uniform(0.08, 0.9)
    return np.clip(grey + rng.normal(0, 0.12, 3), 0.03, 0.97)


def _skin(rng: np.random.Generator) -> np.ndarray:
    return np.array([0.92, 0.72, 0.58]) * rng.uniform(0.3, 1.0)


def _stroke(a, b, r0: float, r1: float, colour) -> Stroke:
    return (*a, *b, r0, r1, *colour)


def _blob(at, radius: float, colour) -> Stroke:
    return _stroke(at, at, radius, radius, colour)


def _towards(start: np.ndarray, angle: float, length: float) -> np.ndarray:
    """A point at this angle from straight down, to the right where positive."""
    return start + length * np.array([np.sin(angle), np.cos(angle)])


def _place(wide: float, rng: np.random.Generator, smallest: float, largest: float):
    """Height of a thing, and where it stands: what is near is large and low."""
    height = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    foot = np.array([rng.uniform(0.08, 0.92) * wide, 0.55 + 0.42 * height + rng.normal(0, 0.06)])
    return height, foot


def _person(wide: float, rng: np.random.Generator) -> list[Stroke]:
    h, foot = _place(wide, rng, 0.5, 1.2)
    stout = np.exp(rng.normal(0, 0.18))
    facing = rng.choice([-1.0, 1.0])
    pose = rng.choice(["stand", "walk", "sit", "reach", "bend"], p=[0.3, 0.3, 0.15, 0.15, 0.1])
    lean = rng.normal(0, 0.08) + (facing * rng.uniform(0.4, 0.9) if pose == "bend" else 0)
    skin, shirt, trousers, hair = _skin(rng), _colour(rng), _colour(rng), _colour(rng) * 0.6
    sleeve = shirt if rng.random() < 0.6 else skin
    shin = trousers if rng.random() < 0.75 else skin
    swing = rng.uniform(0.25, 0.6) if pose == "walk" else rng.uniform(0.02, 0.15)
    # Joints, from the hip: legs hang from it, the trunk leans over it.
    hip = foot - np.array([0.0, (0.28 if pose == "sit" else 0.48) * h])
    legs = []
    for side in (-1, 1):
        thigh = side * swing + (facing * rng.uniform(1.1, 1.5) if pose == "sit" else 0)
        bend = -facing * rng.uniform(0.0, 0.5 if pose != "sit" else 0.2)
        start = hip + np.array([side * 0.045 * h * stout, 0])
        knee = _towards(start, thigh, 0.24 * h)
        ankle = _towards(knee, (0.0 if pose == "sit" else thigh) + bend, 0.24 * h)
        legs += [
            _stroke(start, knee, 0.05 * h * stout, 0.036 * h * stout, trousers),
            _stroke(knee, ankle, 0.035 * h * stout, 0.022 * h, shin),
            _stroke(
                ankle, ankle + np.array([facing * 0.05 * h, 0.005 * h]), 0.022 * h, 0.016 * h, hair
            ),
        ]
    neck = _towards(hip, np.pi - lean, 0.32 * h)
    shoulders = 0.085 * h * stout * rng.uniform(0.6, 1.1)
    arms = []
    for side in (-1, 1):
        start = neck + np.array([side * shoulders, 0.03 * h])
        angle = side * rng.uniform(0.02, 0.35) + lean - side * swing * facing * 0.8
        if pose == "reach" and (side == facing or rng.random() < 0.4):
            angle = side * rng.uniform(1.2, 2.9)
        elbow = _towards(start, angle, 0.17 * h)
        hand = _towards(elbow, angle + facing * rng.uniform(0.0, 0.9), 0.16 * h)
        arms.append(
            [
                _stroke(start, elbow, 0.032 * h * stout, 0.026 * h, shirt),
                _stroke(elbow, hand, 0.026 * h, 0.018 * h, sleeve),
                _blob(hand, 0.022 * h, skin),
            ]
        )
    trunk = [
        _stroke(hip, neck, 0.075 * h * stout, 0.085 * h * stout, shirt),
        _stroke(
            neck + np.array([-shoulders, 0.03 * h]),
            neck + np.array([shoulders, 0.03 * h]),
            0.04 * h,
            0.04 * h,
            shirt,
        ),
    ]
    if rng.random() < 0.25:  # a skirt or a coat
        hem = _towards(hip, 0.0, rng.uniform(0.1, 0.25) * h)
        trunk.append(_stroke(hip, hem, 0.08 * h * stout, 0.13 * h * stout, shirt))
    top = _towards(neck, np.pi - lean * 0.7, 0.115 * h)
    head = [
        _stroke(neck, top, 0.03 * h, 0.03 * h, skin),
        _stroke(top, _towards(top, np.pi - lean, 0.03 * h), 0.055 * h, 0.058 * h, skin),
        _stroke(
            _towards(top, np.pi - lean - facing * 0.5, 0.045 * h),
            _towards(top, np.pi - lean + facing * 0.3, 0.05 * h),
            0.04 * h,
            0.035 * h,
            hair,
        ),
    ]
    return [*arms[0], *legs, *trunk, *head, *arms[1]]


def _thing(wide: float, rng: np.random.Generator) -> list[Stroke]:
    makers = (_post, _tree, _animal, _chair, _bottle, _stand, _limbs)
    return makers[rng.integers(len(makers))](wide, rng)


def _post(wide: float, rng: np.random.Generator) -> list[Stroke]:
    h, foot = _place(wide, rng, 0.4, 1.2)
    top = _towards(foot, np.pi + rng.normal(0, 0.04), 0.85 * h)
    thin, colour = rng.uniform(0.02, 0.09) * h, _colour(rng)
    globe = rng.uniform(0.05, 0.09) * h
    out = [_stroke(foot, top, thin * rng.uniform(1, 1.6), thin, colour)]
    out.append(
        _stroke(
            top,
            top - np.array([0, 0.04 * h]),
            globe,
            globe,
            _skin(rng) if rng.random() < 0.5 else _colour(rng),
        )
    )
    if rng.random() < 0.5:  # an arm or a board
        at = top + np.array([0, rng.uniform(0.1, 0.3) * h])
        reach = np.array([rng.uniform(0.1, 0.25) * h, rng.normal(0, 0.03) * h])
        out.append(
            _stroke(at - reach * (rng.random() < 0.6), at + reach, 0.025 * h, 0.025 * h, colour)
        )
    return out


def _tree(wide: float, rng: np.random.Generator) -> list[Stroke]:
    h, foot = _place(wide, rng, 0.5, 1.3)
    bark, leaf = _colour(rng), _colour(rng) * np.array([0.8, 1.1, 0.7])
    fork = _towards(foot, np.pi + rng.normal(0, 0.08), rng.uniform(0.35, 0.55) * h)
    width = rng.uniform(0.03, 0.06) * h
    out = [_stroke(foot, fork, 1.3 * width, width, bark)]
    for side in (-1, 1):
        tip = _towards(fork, np.pi + side * rng.uniform(0.3, 1.0), rng.uniform(0.2, 0.4) * h)
        out.append(_stroke(fork, tip, width * 0.8, width * 0.4, bark))
        for _ in range(rng.integers(0, 3)):
            at = tip + rng.normal(0, 0.06, 2) * h
            out.append(_blob(at, rng.uniform(0.06, 0.13) * h, np.clip(leaf, 0, 1)))
    if rng.random() < 0.6:
        at = fork - np.array([0, 0.3 * h])
        out.append(_blob(at, rng.uniform(0.05, 0.16) * h, np.clip(leaf, 0, 1)))
    return out


def _animal(wide: float, rng: np.random.Generator) -> list[Stroke]:
    h, foot = _place(wide, rng, 0.35, 0.9)
    h *= 0.7
    fur, facing = (_skin(rng) if rng.random() < 0.5 else _colour(rng)), rng.choice([-1.0, 1.0])
    back = foot - np.array([0, 0.5 * h])
    long = rng.uniform(0.3, 0.45) * h
    rear, front = back - np.array([facing * long, 0]), back + np.array([facing * long, -0.03 * h])
    out = []
    for at in (rear, front):
        for _ in range(2):
            knee = _towards(at, rng.normal(0, 0.3), 0.25 * h)
            ankle = _towards(knee, rng.normal(0, 0.2), 0.25 * h)
            out += [
                _stroke(at, knee, 0.07 * h, 0.045 * h, fur),
                _stroke(knee, ankle, 0.045 * h, 0.03 * h, fur),
            ]
    out.append(_stroke(rear, front, 0.13 * h, 0.15 * h, fur))
    head = front + np.array([facing * rng.uniform(0.1, 0.2) * h, -rng.uniform(0.15, 0.35) * h])
    out += [
        _stroke(front, head, 0.09 * h, 0.06 * h, fur),
        _stroke(head, head + np.array([facing * 0.12 * h, 0.03 * h]), 0.085 * h, 0.05 * h, fur),
        _stroke(rear, _towards(rear, np.pi / 2 * -facing, 0.2 * h), 0.03 * h, 0.015 * h, fur),
    ]
    return out


def _chair(wide: float, rng: np.random.Generator) -> list[Stroke]:
    h, foot = _place(wide, rng, 0.35, 0.9)
    colour, half = _colour(rng), rng.uniform(0.12, 0.2) * h
    seat = foot - np.array([0, 0.42 * h])
    left, right = seat - np.array([half, 0]), seat + np.array([half, 0])
    out = [
        _stroke(
            at, at + np.array([rng.normal(0, 0.02) * h, 0.42 * h]), 0.022 * h, 0.018 * h, colour
        )
        for at in (left, right)
    ]
    side = left if rng.random() < 0.5 else right
    top = side - np.array([rng.normal(0, 0.04) * h, 0.5 * h])
    out += [
        _stroke(left, right, 0.04 * h, 0.04 * h, colour),
        _stroke(side, top, 0.03 * h, 0.035 * h, colour),
    ]
    if rng.random() < 0.5:  # something lies on it
        at = seat - np.array([0, 0.1 * h])
        out.append(
            _stroke(
                at, at - np.array([0, rng.uniform(0, 0.2) * h]), 0.08 * h, 0.07 * h, _colour(rng)
            )
        )
    return out


def _bottle(wide: float, rng: np.random.Generator) -> list[Stroke]:
    """Jars, skittles, busts: a body, a neck, a head, no limbs."""
    h, foot = _place(wide, rng, 0.3, 1.0)
    colour, width = _colour(rng), rng.uniform(0.08, 0.16) * h
    waist, top = foot - np.array([0, 0.45 * h]), foot - np.array([0, 0.78 * h])
    cap = _skin(rng) if rng.random() < 0.5 else colour
    return [
        _stroke(foot - np.array([0, width]), waist, width, width * rng.uniform(0.7, 1.1), colour),
        _stroke(waist, top, width * 0.7, width * 0.35, colour),
        _stroke(top, top - np.array([0, 0.05 * h]), 0.06 * h, 0.06 * h, cap),
    ]


def _stand(wide: float, rng: np.random.Generator) -> list[Stroke]:
    """A coat on a stand, a scarecrow without head or legs, three-legged things."""
    h, foot = _place(wide, rng, 0.4, 1.1)
    colour, cloth = _colour(rng), _colour(rng)
    hook = foot - np.array([0, 0.9 * h])
    out = [_stroke(foot, hook, 0.02 * h, 0.02 * h, colour)]
    for angle in rng.uniform(-0.7, 0.7, rng.integers(2, 4)):
        out.append(
            _stroke(
                foot - np.array([0, 0.15 * h]),
                foot + np.array([angle * 0.2 * h, 0]),
                0.018 * h,
                0.018 * h,
                colour,
            )
        )
    neck = foot - np.array([0, 0.75 * h])
    out.append(
        _stroke(neck, neck + np.array([0, rng.uniform(0.25, 0.4) * h]), 0.06 * h, 0.1 * h, cloth)
    )
    for side in (-1, 1):
        if rng.random() < 0.8:
            start = neck + np.array([side * 0.07 * h, 0])
            out.append(
                _stroke(
                    start,
                    _towards(start, side * rng.uniform(0, 1.5), 0.28 * h),
                    0.035 * h,
                    0.028 * h,
                    cloth,
                )
            )
    if rng.random() < 0.4:
        out.append(_blob(hook, 0.05 * h, _colour(rng)))
    return out


def _limbs(wide: float, rng: np.random.Generator) -> list[Stroke]:
    """The parts of a person in the wrong places."""
    body = _person(wide, rng)
    middle = np.array(body)[:, :4].reshape(-1, 2).mean(axis=0)
    height = np.ptp(np.array(body)[:, 1])
    out = []
    for x0, y0, x1, y1, *rest in body:
        if rng.random() < 0.25:
            continue
        turn = rng.uniform(0, 2 * np.pi)
        at = middle + rng.normal(0, 0.2, 2) * height
        reach = np.hypot(x1 - x0, y1 - y0) / 2 * np.array([np.sin(turn), np.cos(turn)])
        out.append((*(at - reach), *(at + reach), *rest))
    return out


def _clutter(wide: float, rng: np.random.Generator) -> list[Stroke]:
    """Walls, shelves, bushes, windows far behind."""
    at = np.array([rng.uniform(0, wide), rng.uniform(0.1, 0.8)])
    size, colour = rng.uniform(0.05, 0.3), _colour(rng)
    if rng.random() < 0.5:
        along = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.05)
        return [
            _stroke(
                at + np.array([i * 0.8 * size, 0]),
                _towards(at, along, 2 * size) + np.array([i * 0.8 * size, 0]),
                0.15 * size,
                0.15 * size,
                colour,
            )
            for i in range(rng.integers(1, 4))
        ]
    return [
        _stroke(
            at + rng.normal(0, 0.5, 2) * size,
            at + rng.normal(0, 0.5, 2) * size,
            0.3 * size,
            0.3 * size,
            np.clip(colour + rng.normal(0, 0.05, 3), 0, 1),
        )
        for _ in range(rng.integers(1, 5))
    ]


def _foreground(wide: float, rng: np.random.Generator) -> list[Stroke]:
    """A rail, a hedge, a table's edge, a pole close by."""
    colour = _colour(rng)
    if rng.random() < 0.4:
        x, width = rng.uniform(0, wide), rng.uniform(0.015, 0.05)
        low, high = np.array([x, -0.1]), np.array([x + rng.normal(0, 0.05), 1.1])
        return [_stroke(low, high, width, width, colour)]
    y, width = rng.uniform(0.72, 1.0), rng.uniform(0.02, 0.1)
    return [
        _stroke(
            np.array([-0.1, y]),
            np.array([wide + 0.1, y + rng.normal(0, 0.05)]),
            width,
            width,
            colour,
        )
    ]


# ---------------------------------------------------------------- ground and camera


def _background(
    n: int, x: np.ndarray, y: np.ndarray, wide: float, rng: np.random.Generator
) -> Float32[np.ndarray, "scenes rows columns 3"]:
    """Sky or wall above, ground below a tilted horizon, both with a coarse texture."""
    horizon = rng.uniform(0.25, 0.75, (n, 1, 1)) + rng.normal(0, 0.08, (n, 1, 1)) * (x - wide / 2)
    below = np.clip((y - horizon) * 20 + 0.5, 0, 1)[..., None]
    colours = np.clip(
        rng.uniform(0.1, 0.95, (2, n, 1, 1, 1)) + rng.normal(0, 0.1, (2, n, 1, 1, 3)), 0, 1
    )
    pixels = colours[0] * (1 - below) + colours[1] * below
    for _ in range(3):
        fx, fy = rng.normal(0, 12, (2, n, 1, 1))
        wave = np.sin(fx * x + fy * y + rng.uniform(0, 2 * np.pi, (n, 1, 1)))
        pixels += rng.uniform(0, 0.07, (n, 1, 1, 1)) * wave[..., None]
    return pixels.astype(np.float32)


def _photograph(
    pixels: np.ndarray, x: np.ndarray, y: np.ndarray, spec: Scenes, rng: np.random.Generator
) -> UInt8[np.ndarray, "scenes rows columns channels"]:
    """Light from one side, exposure, contrast, noise, eight bits."""
    n = len(pixels)
    turn = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    slope = np.sin(turn) * (x - 0.5) + np.cos(turn) * (y - 0.5)
    light = 1 + rng.uniform(0, 0.6, (n, 1, 1)) * slope
    if spec.channels == 1:
        pixels = pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
    gain, gamma = (
        np.exp(rng.normal(0, 0.15, (n, 1, 1, 1))),
        np.exp(rng.normal(0, 0.2, (n, 1, 1, 1))),
    )
    seen = np.clip(pixels * light[..., None] * gain, 0, 1).astype(np.float32) ** gamma
    grain = rng.uniform(0.005, 0.03, (n, 1, 1, 1)).astype(np.float32)
    seen = seen + grain * rng.standard_normal(seen.shape, np.float32)
    return np.clip(np.rint(seen * 255), 0, 255).astype(np.uint8)
