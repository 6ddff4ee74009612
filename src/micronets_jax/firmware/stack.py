"""Worst-case stack depth of a program, by static analysis of its machine code.

Invariant: every path through every function is followed, so the result is an upper bound; recursion
and frames of a size that is not in the instructions are refused.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
import subprocess
from collections.abc import Collection, Mapping
from typing import NamedTuple

from micronets_jax.firmware import tools
from micronets_jax.firmware.boards import FirmwareError

POINTERS = {
    "core_prepare": r"_GLOBAL_\w+",
    "mn_stream": r"mn_\w+_row|depthwise\w*_row\w*",
    "mn_depthwise_row": r"\w+_pairs",
    "mn_depthwise_row_threes": r"depthwise_row_threes\w+_threes",
}
"""Functions that call through pointers -> pattern of the functions that these may point to."""


class Function(NamedTuple):
    """What a function does with the stack.

    Attributes:
        frame: most bytes that it takes itself.
        calls: function -> most bytes that it holds when it calls that one.
        pointer: likewise when it calls through a pointer; None if it never does.
        taken: functions whose addresses it takes, which it may call so.
    """

    frame: int
    calls: Mapping[str, int]
    pointer: int | None
    taken: frozenset[str]


class _Instruction(NamedTuple):
    name: str  # without the suffix of its width
    operands: str
    following: int  # address


@dataclasses.dataclass(eq=False)
class Program:
    """The code of a linked program for a Cortex-M.

    Attributes:
        entries: function -> its address.
    """

    entries: Mapping[str, int]
    _code: Mapping[int, _Instruction]
    _words: Mapping[int, int]  # constants between instructions, by their addresses

    def __post_init__(self) -> None:
        self._names = {at: name for name, at in self.entries.items()}
        self.function = functools.cache(self._function)

    def _function(self, name: str) -> Function:
        """What one function does with the stack.

        Raises:
            FirmwareError: it takes an amount that is not in its instructions.
        """
        start, end = self._extent(name)
        reached: set[int] = set()
        waiting = [(start, 0)]
        leaps: list[int] = []  # what is held where an address is jumped to that was computed
        leapt = False
        frame, pointer = 0, None
        calls: dict[str, int] = {}
        while waiting:
            at, held = waiting.pop()
            if at in reached or at not in self._code:
                continue
            reached.add(at)
            step = self._code[at]
            held += _taken(name, step)
            frame = max(frame, held)
            target = re.search(r"\b([0-9a-f]+) <", step.operands)
            to = int(target[1], 16) if target else None
            far = step.name == "bl" and to is not None and to not in self._names
            if far and to is not None:  # Armv6-M's branch to where no other one reaches
                waiting.append((to, held))
            elif step.name in ("bl", "blx") and to is not None:
                callee = self._names[to]
                calls[callee] = max(calls.get(callee, 0), held)
            elif step.name.startswith("blx"):
                pointer = max(pointer or 0, held)
            elif _BRANCHES.fullmatch(step.name) and to is not None:
                if to in self._names and to != start:  # the last call
                    callee = self._names[to]
                    calls[callee] = max(calls.get(callee, 0), held)
                else:
                    waiting.append((to, held))
            elif step.name in ("tbb", "tbh") or (step.name == "bx" and step.operands != "lr"):
                leaps.append(held)
            if not far and not _ends(step):
                waiting.append((step.following, held))
            if not waiting and leaps:  # what nothing else leads to, they do
                left = [a for a in self._code if start < a < end and a not in reached]
                left = [a for a in left if self._code[a].name != "nop"]
                if left:
                    waiting, leapt = [(min(left), max(leaps))], True
                elif not leapt:  # into another function
                    pointer = max([pointer or 0, *leaps])
        words = (word - 1 for word in self.words(name) if word % 2)
        taken = frozenset(self._names[word] for word in words if word in self._names)
        return Function(frame, calls, pointer, taken)

    def words(self, name: str) -> list[int]:
        """The constants among a function's instructions, addresses for the most part."""
        start, end = self._extent(name)
        return [word for at, word in self._words.items() if start < at < end]

    def _extent(self, name: str) -> tuple[int, int]:
        start = self.entries[name]
        return start, min((at for at in self._names if at > start), default=1 << 32)

    def depth(
        self, name: str, without: Collection[str] = (), pointers: Mapping[str, str] | None = None
    ) -> int:
        """Most bytes of stack that a call of a function takes.

        Args:
            name: of the function.
            without: functions whose calls are left out.
            pointers: function that calls through pointers -> pattern of what that may be, where
                that is less than :data:`POINTERS` says.

        Raises:
            FirmwareError: functions call each other in a circle, or through pointers of which
                :data:`POINTERS` says nothing, or as :meth:`function`.
        """
        return self._deepest(name, without, {**POINTERS, **(pointers or {})}, {})

    def held(self, name: str, callee: str) -> int | None:
        """Most bytes that are held, from a call of a function on, when another one is called; None
        if it never is.

        Raises:
            FirmwareError: as :meth:`depth`.
        """
        if callee not in self.entries:
            return None
        if name == callee:
            return 0
        inner = [(self.held(each, callee), held) for each, held in self._calls(name, POINTERS)]
        return max((deep + held for deep, held in inner if deep is not None), default=None)

    def _deepest(
        self,
        name: str,
        without: Collection[str],
        pointers: Mapping[str, str],
        known: dict[str, int | None],
    ) -> int:
        if name in without:
            return 0
        if name not in known:
            known[name] = None
            calls = [
                held + self._deepest(each, without, pointers, known)
                for each, held in self._calls(name, pointers)
            ]
            known[name] = max([self.function(name).frame, *calls])
        depth = known[name]
        if depth is None:
            raise FirmwareError(f"{name} calls itself: its stack has no bound that is known")
        return depth

    def _calls(self, name: str, pointers: Mapping[str, str]) -> list[tuple[str, int]]:
        """What a function calls, and what it holds then."""
        taken = self.function(name)
        calls = list(taken.calls.items())
        if taken.pointer is not None:
            pattern = pointers.get(plain(name))
            if pattern is None and not taken.taken:
                raise FirmwareError(f"{name} calls through a pointer of which nothing is known")
            there = {each for each in self.entries if re.fullmatch(pattern or "", plain(each))}
            calls += [(each, taken.pointer) for each in taken.taken | there]
        return calls


def read(elf: pathlib.Path) -> Program:
    """The code of a program.

    Raises:
        FirmwareError: there is no disassembler, or the file is not for it.
    """
    tools.require(tools.DISASSEMBLER)
    done = subprocess.run(
        [tools.DISASSEMBLER, "-d", "--no-show-raw-insn", str(elf)], capture_output=True, text=True
    )
    if done.returncode:
        raise FirmwareError(f"{tools.DISASSEMBLER} does not read {elf}: {done.stderr.strip()}")
    return parse(done.stdout)


def parse(listing: str) -> Program:
    """The code of a listing that ``objdump -d --no-show-raw-insn`` wrote."""
    entries: dict[str, int] = {}
    words: dict[int, int] = {}
    lines: list[tuple[int, str, str]] = []
    for line in listing.splitlines():
        if title := re.match(r"([0-9a-f]{8}) <(.+)>:", line):
            name = title[2]
            # static functions of two files may have one name
            entries[name if name not in entries else f"{name}@{title[1]}"] = int(title[1], 16)
        elif found := re.match(r"\s*([0-9a-f]+):\t\.word\t0x([0-9a-f]+)", line):
            words[int(found[1], 16)] = int(found[2], 16)
        elif found := re.match(r"\s*([0-9a-f]+):\t([a-z]\S*)\s*(.*)", line):
            name = re.sub(r"\.[nw]$", "", found[2])
            lines.append((int(found[1], 16), name, re.split(r"\s*[@;]", found[3])[0].strip()))
    following = [at for at, _, _ in lines[1:]] + [0]
    code = {
        at: _Instruction(name, operands, then)
        for (at, name, operands), then in zip(lines, following, strict=True)
    }
    return Program(entries, code, words)


_BRANCHES = re.compile(r"b(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?|cbn?z")


def plain(name: str) -> str:
    """A function's name as it was written: compilers mark copies that they specialise."""
    return re.split(r"[.@]", name)[0]


def _taken(function: str, step: _Instruction) -> int:
    """Bytes by which an instruction lets the stack grow."""
    name, operands = step.name, step.operands
    if name == "push" or (name == "stmdb" and operands.startswith("sp!")):
        return 4 * _registers(operands)
    if name == "pop" or (name in ("ldmia", "ldm") and operands.startswith("sp!")):
        return -4 * _registers(operands)
    if name in ("vpush", "vpop"):
        size = (8 if "{d" in operands else 4) * _registers(operands)
        return size if name == "vpush" else -size
    if moved := re.search(r"\[sp(?:\], #|, #)(-?\d+)(\]!)?$", operands):
        writes_back = moved[2] or "], #" in operands
        return -int(moved[1]) if writes_back else 0
    only_read = ("cmp", "str", "ldr", "tst", "vstm", "vldm")
    if not re.match(r"sp\b(?!!)", operands) or name.startswith(only_read):
        return 0
    if amount := re.match(r"sp(?:, sp)?, #(\d+)$", operands):
        if name in ("sub", "subw"):
            return int(amount[1])
        if name in ("add", "addw", "adds"):
            return -int(amount[1])
    if name == "mov" and operands == "sp, r7":
        return 0  # what `add r7, sp, #0` kept
    raise FirmwareError(f"{function} moves its stack by an unknown amount: {name} {operands}")


def _registers(operands: str) -> int:
    """How many a list such as ``{r4-r7, lr}`` names."""
    found = re.search(r"\{(.*)\}", operands)
    count = 0
    for each in found[1].split(",") if found else ():
        first, _, last = each.strip().partition("-")
        count += int(last[1:]) - int(first[1:]) + 1 if last else 1
    return count


def _ends(step: _Instruction) -> bool:
    """Whether nothing follows an instruction."""
    name, operands = step.name, step.operands
    if name in ("b", "bx", "tbb", "tbh", "udf"):
        return True
    loads = name == "pop" or (name in ("ldmia", "ldm", "ldr") and "sp" in operands)
    return loads and re.search(r"\bpc\b", operands.partition("[")[0]) is not None
