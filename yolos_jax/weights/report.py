"""Reports how each tensor of a source was used."""

import dataclasses
import re
from collections.abc import Iterable

_BLOCK = re.compile(r"\b(blocks|layer)\.(\d+)\.")


def compact(names: Iterable[str]) -> list[str]:
    """Merges names that differ only in the block number, as in `blocks.{0-11}.norm1.bias`; keeps their order."""
    groups: dict[str, list[int]] = {}
    for name in names:
        found = _BLOCK.search(name)
        template = _BLOCK.sub(r"\1.{}.", name, count=1)
        groups.setdefault(template, []).extend([int(found[2])] if found else [])
    return [template.replace("{}", _runs(numbers)) if numbers else template for template, numbers in groups.items()]


def _runs(numbers: list[int]) -> str:
    """Formats `[0, 1, 2, 5]` as `{0-2,5}`, and a single number without braces."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return texts[0] if len(numbers) == 1 else "{" + ",".join(texts) + "}"


@dataclasses.dataclass(frozen=True)
class Report:
    """How each tensor was used. `str` lists the number of tensors in each group and their names."""

    kind: str  # "reference", "huggingface" or "deit"
    taken: tuple[str, ...]  # source tensors used in the parameters (the source's names)
    initialised: tuple[str, ...] = ()  # parameters initialised from the seed (reference names)
    ignored: tuple[str, ...] = ()  # source tensors that are not needed (the source's names)
    cast: tuple[str, ...] = ()  # "name (dtype)" of source tensors that were cast to float32
    notes: tuple[str, ...] = ()  # notes on where the tensors were found and how they were changed
    path: str = ""  # path or hub name of the weights, if they have one

    def __str__(self) -> str:
        return self._text(("used", "initialised", "ignored", "cast to float32"))

    def summary(self) -> str:
        """Lists only the names of tensors that were not copied: those that were initialised or ignored."""
        return self._text(("initialised", "ignored"))

    def _text(self, named: tuple[str, ...]) -> str:
        names_of = {"used": self.taken, "initialised": self.initialised, "ignored": self.ignored}
        if self.cast:
            names_of["cast to float32"] = self.cast
        lines = [f"{self.kind} weights from {self.path}" if self.path else f"{self.kind} weights"]
        for what, names in names_of.items():
            lines.append(f"{what}: {len(names)}")
            lines += [f"  {name}" for name in compact(names)] if what in named else []
        return "\n".join(lines + [f"note: {note}" for note in self.notes])
