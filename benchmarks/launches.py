"""Counts the launches of a compiled GPU program, and the bytes that it moves, in the text of its optimized HLO.

The rules:

- Every instruction that computes or copies is one launch: a fusion, a library call, a copy, a collective, a callback.
  Parameters, constants, tuples, bitcasts and the ends of asynchronous pairs do not count.
- The body of a loop counts once per iteration (`turns_of`). If that is unknown, body and condition count once, and
  `Cost.unknown_loops` counts such loops. Of the branches of a conditional, the one with the most launches counts.
- Bytes are those of a launch's operands and results, each counted once, regardless of caches. An operand that is only
  sliced or gathered from counts as its slices, and an update in place as the update. Integer bytes (u8, s8) among the
  results of a library call are its workspace and do not count.
- XLA may put launches into command buffers (CUDA graphs), and libraries may launch several kernels per call. The HLO
  shows neither. Both numbers are for comparing programs, not for predicting time.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
         "u64": 8, "f64": 8}  # fmt: skip
ARRAY = re.compile(rf"\b({'|'.join(SIZES)})\[([\d,]*)\]")
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
        "opt-barrier", "async-update", "add-dependency", "domain"}  # fmt: skip
COLLECTIVES = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
RENAMED = "bitcast", "reshape", "get-tuple-element"  # these only rename an operand within a fusion


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str  # of the result, such as "f32[2,3]{1,0}"
    op: str
    operands: tuple[str, ...]
    value: str  # the text in the operands' brackets; the value of a constant
    attributes: str  # the text after the operands
    root: bool

    def called(self, *keys: str) -> list[str]:
        """Computations that an attribute names, such as `calls=%fused` or `branch_computations={%a, %b}`."""
        found = re.findall(rf"\b(?:{'|'.join(keys)})=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return [name for names in found for name in re.findall(r"[\w.\-]+", names)]

    @property
    def kind(self) -> str:
        """The operation, with the target of a library call or the kind of a fusion, such as `fusion kLoop`."""
        target = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        fused = re.search(r"\bkind=(\w+)", self.attributes)
        return target[1] if target else f"fusion {fused[1]}" if self.op == "fusion" and fused else self.op


Computations = Mapping[str, Sequence[Instruction]]


@dataclasses.dataclass
class Cost:
    """The launches and bytes of a program or a part of it."""

    launches: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # by `kind`
    moved: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # bytes by `kind`
    unknown_loops: int = 0

    def add(self, other: "Cost", times: int = 1) -> None:
        for mine, theirs in ((self.launches, other.launches), (self.moved, other.moved)):
            mine.update({kind: times * count for kind, count in theirs.items()})
        self.unknown_loops += other.unknown_loops


def cost(hlo: str) -> Cost:
    """The cost of the text of an optimized module, such as `compiled.as_text()`."""
    computations, entry = parse(hlo)
    return _of_computation(computations, entry)


def calls(hlo: str) -> dict[str, int]:
    """How often each library function or callback is called, most frequent first; a loop's body counts once."""
    found = collections.Counter(re.findall(r'custom_call_target="([^"]*)"', hlo))
    return dict(found.most_common())


def tf32_products(hlo: str) -> int:
    """Matrix products of float32 that an NVIDIA GPU may compute in TF32; those in loops count once."""
    found = 0
    for instructions in parse(hlo)[0].values():
        shapes = {instruction.name: instruction.shape for instruction in instructions}
        for instruction in instructions:
            library = "gemm" in instruction.kind or "matmul" in instruction.kind
            of_floats = any(shapes.get(operand, "").startswith("f32") for operand in instruction.operands[:2])
            if of_floats and (instruction.op == "dot" or library):
                exact = re.search(r"highest|_x3|_x6|dot_f32", instruction.attributes.lower())
                found += not exact
    return found


class Collective(NamedTuple):
    """A kind of communication in a program."""

    op: str
    number: int
    bytes: int  # bytes of all results, on one device
    beside: int  # launches between the starts and the ends of asynchronous ones, which run at the same time


def collectives(hlo: str) -> list[Collective]:
    """The communication in one run of a program, loop bodies once per iteration; the text must be scheduled."""
    computations, entry = parse(hlo)
    found = {op: [0, 0, 0] for op in COLLECTIVES}

    def count(name: str, times: int) -> None:
        pending: dict[str, int] = {}  # launches since the start of each unfinished one
        for instruction in computations[name]:
            op = instruction.op.removesuffix("-start").removesuffix("-done")
            if op in COLLECTIVES and instruction.op.endswith("-start"):
                pending[instruction.name] = 0
            elif op in COLLECTIVES:
                beside = pending.pop(instruction.operands[0], 0)
                for place, number in enumerate((1, size(instruction.shape), beside)):
                    found[op][place] += times * number
            elif pending:
                more = _of_instruction(instruction, {}, computations).launches.total()
                pending = {start: launches + more for start, launches in pending.items()}
            inner = instruction.called("calls") if instruction.op == "fusion" else _inner(instruction, computations)
            for called in inner:
                count(called, times * (turns_of(instruction, computations) or 1))

    count(entry, 1)
    return [Collective(op, *numbers) for op, numbers in found.items() if numbers[0]]


def parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """(instructions of every computation by name, the name of the entry computation)."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{", line)
        if head:
            current = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current += _instruction(line)
    return computations, entry


def _instruction(line: str) -> list[Instruction]:
    """An instruction; None for a continued line."""
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
    if not found:
        return []
    body = found[3]
    end = _closing(body, 0) + 1 if body.startswith("(") else body.find(" ")
    call = re.match(r" ?([\w\-]+)(?=\()", body[end:])
    if not call:
        return []
    start = end + call.end()
    close = _closing(body, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", body[start:close]))
    return [
        Instruction(found[2], body[:end], call[1], operands, body[start + 1 : close], body[close + 1 :], bool(found[1]))
    ]


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if not depth:
            return place
    return len(text)


def _bytes(dtype: str, sides: str) -> int:
    return SIZES[dtype] * math.prod(int(side) for side in sides.split(",") if side)


def size(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    return sum(_bytes(*found) for found in ARRAY.findall(shape))


def _of_computation(computations: Computations, name: str) -> Cost:
    total = Cost()
    shapes = {instruction.name: instruction.shape for instruction in computations[name]}
    for instruction in computations[name]:
        total.add(_of_instruction(instruction, shapes, computations))
    return total


def _of_instruction(instruction: Instruction, shapes: Mapping[str, str], computations: Computations) -> Cost:
    """The cost of one instruction and of all that it calls; `shapes` are those of its operands by name."""
    total = Cost()
    if instruction.op in FREE or instruction.op.endswith("-done"):
        return total
    inner = [_of_computation(computations, name) for name in _inner(instruction, computations)]
    if instruction.op == "conditional":
        inner = [max(inner, key=lambda branch: branch.launches.total())]
        total.launches[instruction.kind] = 1
    elif not inner:
        total.launches[instruction.kind] = 1
        total.moved[instruction.kind] = _moved(instruction, shapes, computations)
    for part in inner:
        total.add(part, turns_of(instruction, computations) or 1)
    total.unknown_loops += instruction.op == "while" and not turns_of(instruction, computations)
    return total


def turns_of(loop: Instruction, computations: Computations) -> int | None:
    """The iterations of a loop, if known: noted by XLA, or from a counter (from 0) that is compared with a constant."""
    if loop.op != "while":
        return None
    found = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if found:
        return int(found[1])
    condition = {instruction.name: instruction for instruction in computations[loop.called("condition")[0]]}
    root = next(instruction for instruction in condition.values() if instruction.root)
    limit = condition.get(root.operands[-1]) if root.operands else None
    counts = root.op == "compare" and "direction=LT" in root.attributes
    return int(limit.value) if counts and limit and limit.op == "constant" and limit.value.isdigit() else None


def _inner(instruction: Instruction, computations: Computations) -> list[str]:
    """Computations that run in place of the instruction; a fusion is one launch."""
    if instruction.op == "while":
        known = turns_of(instruction, computations) is not None  # then the condition does not run
        return instruction.called("body") + ([] if known else instruction.called("condition"))
    keys = {
        "conditional": ("branch_computations", "true_computation", "false_computation"),
        "call": ("to_apply",),
        "async-start": ("calls",),
    }
    return instruction.called(*keys[instruction.op]) if instruction.op in keys else []


def _moved(instruction: Instruction, shapes: Mapping[str, str], computations: Computations) -> int:
    """Bytes that one launch reads and writes."""
    if instruction.op == "fusion":
        return _moved_by_fusion(computations[instruction.called("calls")[0]])
    if instruction.op in ("dynamic-slice", "slice", "gather"):
        return 2 * size(instruction.shape)
    if instruction.op == "dynamic-update-slice":
        return 2 * size(shapes.get(instruction.operands[1], ""))
    results = ARRAY.findall(instruction.shape)
    if instruction.op == "custom-call" and len(results) > 1:
        results = [result for result in results if result[0] not in ("u8", "s8")]
    if instruction.op.endswith("-start"):  # its results are its operands
        return 2 * sum(size(shapes.get(operand, "")) for operand in instruction.operands)
    read = sum(size(shapes.get(operand, "")) for operand in instruction.operands)
    return read + sum(_bytes(*result) for result in results)


def _moved_by_fusion(body: Sequence[Instruction]) -> int:
    by_name = {instruction.name: instruction for instruction in body}
    users: dict[str, list[tuple[Instruction, str]]] = collections.defaultdict(list)
    for instruction in body:
        for operand in instruction.operands:
            users[operand].append((instruction, operand))

    def uses(name: str) -> Iterator[tuple[Instruction, str]]:
        """The users of a value, also under other names."""
        for user, operand in users[name]:
            if user.op in RENAMED:
                yield from uses(user.name)
            else:
                yield user, operand

    def read(parameter: Instruction) -> int:
        parts = 0
        for user, operand in uses(parameter.name):
            first = user.operands[0] == operand
            if first and user.op in ("dynamic-slice", "slice", "gather"):
                parts += size(user.shape)
            elif not (first and user.op == "dynamic-update-slice"):  # the operand that is updated in place
                return size(parameter.shape)
        return min(parts, size(parameter.shape))

    def written(result: Instruction) -> int:
        while result.op in RENAMED:
            result = by_name[result.operands[0]]
        if result.op == "tuple":
            return sum(written(by_name[operand]) for operand in result.operands)
        if result.op == "dynamic-update-slice":
            return size(by_name[result.operands[1]].shape)
        return size(result.shape)

    root = next(instruction for instruction in body if instruction.root)
    return sum(read(each) for each in body if each.op == "parameter") + written(root)
