"""What became of every tensor of a source."""

import dataclasses
import itertools
import re
from collections.abc import Iterable

_BLOCK = re.compile(r"\b(blocks|layer)\.(\d+)\.")


def compact(names: Iterable[str]) -> list[str]:
    """Names with runs of block numbers written as one: `blocks.{0-11}.norm1.bias`; order is kept."""
    groups: dict[str, list[int]] = {}
    for name in names:
        found = _BLOCK.search(name)
        template = _BLOCK.sub(r"\1.{}.", name, count=1)
        groups.setdefault(template, []).extend([int(found[2])] if found else [])
    return [template.replace("{}", _runs(numbers)) if numbers else template for template, numbers in groups.items()]


def _runs(numbers: list[int]) -> str:
    """`[0, 1, 2, 5]` -> `{0-2,5}`; a single number stays as it is."""
    if len(numbers) == 1:
        return str(numbers[0])
    in_runs = itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in run] for _, run in in_runs]
    return "{" + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + "}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor. Printing it gives counts and names."""

    kind: str  # "reference", "huggingface" or "deit"
    taken: tuple[str, ...]  # source tensors that are in the parameters now (the source's names)
    initialised: tuple[str, ...] = ()  # parameters without a source, fresh from the seed (reference names)
    ignored: tuple[str, ...] = ()  # source tensors left out on purpose (the source's names)
    cast: tuple[str, ...] = ()  # "name (dtype)" of source tensors that were not float32 and have been cast
    notes: tuple[str, ...] = ()  # sentences about where tensors were found, and which were changed on the way
    path: str = ""  # where the weights came from, if from a file

    def __str__(self) -> str:
        lines = [f"{self.kind} weights{f' from {self.path}' if self.path else ''}"]
        for what in ("taken", "initialised", "ignored", "cast"):
            names = getattr(self, what)
            if names or what != "cast":
                lines.append(f"{what}{' to float32' if what == 'cast' else ''}: {len(names)}")
                lines += [f"  {name}" for name in compact(names)]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])
