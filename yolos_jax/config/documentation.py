"""Writes docs/settings.md: `python -m yolos_jax.config.documentation > docs/settings.md`."""

import itertools

from yolos_jax.config.reader import Table
from yolos_jax.config.recipes import CLASSIFICATION, DETECTION, SETTINGS

INTRODUCTION = """# Settings

A recipe sets any of these (`config.train.epochs = 10`), and so does the command line (`--config.train.epochs=10`). This
page is made by `python -m yolos_jax.config.documentation`.

*Resume* says whether a setting may change when a run resumes from its checkpoint; `--accept_differences` goes on in
spite of a *no*. Settings marked *host* may differ between the processes of a run.
"""


def settings_page() -> str:
    """The content of `docs/settings.md`."""
    detection, own = SETTINGS[DETECTION], SETTINGS[CLASSIFICATION]
    changed = {key: found for key, found in own.items() if detection.get(key) != found}
    same = ", ".join(f"`{key}`" for key in own if key not in changed)
    pretraining = (
        "# Settings of pre-training\n\nA recipe of `yolos-pretrain` has these settings, and with the meaning and the "
        f"default above: {same}.\n"
    )
    return f"{INTRODUCTION}{tables(detection)}\n{pretraining}{tables(changed, ' of pre-training')}"


def tables(table: Table, of: str = "") -> str:
    """A section of the page for each group of settings."""
    text = ""
    for section, group in itertools.groupby(table.items(), key=lambda item: item[0].rpartition(".")[0]):
        text += f"\n## {section or 'General'}{of}\n\n| key | default | value | meaning | resume |\n"
        text += "| --- | --- | --- | --- | --- |\n"
        for key, found in group:
            how = found.setting
            resume = f"{how.resume}, host" if how.host else how.resume
            text += f"| `{key}` | `{found.default!r}` | {found.wanted} | {how.meaning} | {resume} |\n"
    return text


if __name__ == "__main__":
    print(settings_page(), end="")
