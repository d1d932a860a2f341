"""Counts the kernel launches of a compiled GPU program, and the bytes that it moves, from its optimized HLO.

Rules:

- Every instruction that computes or copies is one launch: a fusion, library call, copy, collective or callback.
  Parameters, constants, tuples, bitcasts and the second halves of asynchronous pairs do not count.
- The body of a loop counts once per iteration (`turns_of`). If the number of iterations is unknown, the body and the
  condition count once, and `Cost.unknown_loops` is incremented. For a conditional, the branch with the most launches
  counts.
- The bytes of a launch are the sizes of its operands and results, each counted once, regardless of caches. For an
  operand that is only sliced or gathered from, only the slices count; for an in-place update, only the update. u8 and
  s8 results of a library call are its workspace and do not count.
- XLA may combine launches into command buffers (CUDA graphs), and libraries may launch several kernels per call; the
  HLO shows neither. Use launches and bytes to compare programs, not to predict times.
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
RENAMED = "bitcast", "reshape", "get-tuple-element"  # within a fusion, these only rename an operand


class Instruction(NamedTuple):
    """An instruction of a computation."""

    name: str
    shape: str  # shape of the result, such as "f32[2,3]{1,0}"
    op: str
    operands: tuple[str, ...]
    value: str  # the text between the operands' parentheses, such as the value of a constant
    attributes: str  # the text after the operands
    root: bool

    def called(self, *keys: str) -> list[str]:
        """Names of computations in attributes such as `calls=%fused` or `branch_computations={%a, %b}`."""
        found = re.findall(rf"\b(?:{'|'.join(keys)})=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return [name for names in found for name in re.findall(r"[\w.\-]+", names)]

    @property
    def kind(self) -> str:
        """The operation, the target of a library call, or the type of fusion, such as `fusion kLoop`."""
        target = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        fused = re.search(r"\bkind=(\w+)", self.attributes)
        return target[1] if target else f"fusion {fused[1]}" if self.op == "fusion" and fused else self.op


Computations = Mapping[str, Sequence[Instruction]]


@dataclasses.dataclass
class Cost:
    """The number of launches of a program or a part of it, and the bytes that it moves."""

    launches: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # for each `kind`
    moved: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # bytes for each `kind`
    unknown_loops: int = 0

    def add(self, other: "Cost", times: int = 1) -> None:
        for mine, theirs in ((self.launches, other.launches), (self.moved, other.moved)):
            mine.update({kind: times * count for kind, count in theirs.items()})
        self.unknown_loops += other.unknown_loops


def cost(hlo: str) -> Cost:
    """Computes the cost of an optimized HLO module from its text, such as `compiled.as_text()`."""
    computations, entry = parse(hlo)
    return _of_computation(computations, entry)


def calls(hlo: str) -> dict[str, int]:
    """The number of calls to each library function or callback, most frequent first; loop bodies count once."""
    found = collections.Counter(re.findall(r'custom_call_target="([^"]*)"', hlo))
    return dict(found.most_common())


def tf32_products(hlo: str) -> int:
    """The number of float32 matrix products that an NVIDIA GPU may compute in TF32; loop bodies count once."""
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
    """All collectives of one type in a program."""

    op: str
    number: int
    bytes: int  # total size of the results on one device
    beside: int  # launches between the start and the end of asynchronous collectives, which may overlap with them


def collectives(hlo: str) -> list[Collective]:
    """Counts the collectives in a scheduled HLO module; loop bodies count once per iteration."""
    computations, entry = parse(hlo)
    found = {op: [0, 0, 0] for op in COLLECTIVES}

    def count(name: str, times: int) -> None:
        pending: dict[str, int] = {}  # number of launches since the start of each unfinished collective
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
    """Returns a dict from the name of each computation to its instructions, and the name of the entry computation."""
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
    """Parses a line into a list with one instruction; returns an empty list if the line has none."""
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
    """The index of the bracket that matches the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if not depth:
            return place
    return len(text)


def _bytes(dtype: str, sides: str) -> int:
    return SIZES[dtype] * math.prod(int(side) for side in sides.split(",") if side)


def size(shape: str) -> int:
    """Size in bytes of an array, or of all arrays in a tuple."""
    return sum(_bytes(*found) for found in ARRAY.findall(shape))


def _of_computation(computations: Computations, name: str) -> Cost:
    total = Cost()
    shapes = {instruction.name: instruction.shape for instruction in computations[name]}
    for instruction in computations[name]:
        total.add(_of_instruction(instruction, shapes, computations))
    return total


def _of_instruction(instruction: Instruction, shapes: Mapping[str, str], computations: Computations) -> Cost:
    """The cost of an instruction and of the computations that it calls; `shapes` maps operand names to shapes."""
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
    """Number of iterations of a loop, from XLA's annotation or a counter with a constant limit; None if unknown."""
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
    """Names of the computations that an instruction runs; empty for a fusion, which counts as one launch."""
    if instruction.op == "while":
        known = turns_of(instruction, computations) is not None  # if so, the condition is not evaluated
        return instruction.called("body") + ([] if known else instruction.called("condition"))
    keys = {
        "conditional": ("branch_computations", "true_computation", "false_computation"),
        "call": ("to_apply",),
        "async-start": ("calls",),
    }
    return instruction.called(*keys[instruction.op]) if instruction.op in keys else []


def _moved(instruction: Instruction, shapes: Mapping[str, str], computations: Computations) -> int:
    """Bytes read and written by one launch."""
    if instruction.op == "fusion":
        return _moved_by_fusion(computations[instruction.called("calls")[0]])
    if instruction.op in ("dynamic-slice", "slice", "gather"):
        return 2 * size(instruction.shape)
    if instruction.op == "dynamic-update-slice":
        return 2 * size(shapes.get(instruction.operands[1], ""))
    results = ARRAY.findall(instruction.shape)
    if instruction.op == "custom-call" and len(results) > 1:
        results = [result for result in results if result[0] not in ("u8", "s8")]
    if instruction.op.endswith("-start"):  # results have the same sizes as operands
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
        """Yields the instructions that use a value, directly or under a different name, and that name."""
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
            elif not (first and user.op == "dynamic-update-slice"):  # its first operand is updated in place
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
