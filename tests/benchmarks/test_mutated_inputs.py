"""Opens a sample of the inputs from `benchmarks.mutated_inputs` in this process."""

import pytest

from benchmarks.mutated_inputs import QUICK, make_templates, open_input

SAMPLE = 16  # inputs of each kind


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated") / "templates"
    make_templates(folder, QUICK)
    return folder


@pytest.mark.parametrize("kind", QUICK)
def test_damaged_inputs_are_read_or_rejected(kind, templates, tmp_path):
    outcomes = [open_input(templates, kind, number, tmp_path / str(number)) for number in range(SAMPLE)]
    assert not [each for each in outcomes if each.result not in ("read", "refused")]
