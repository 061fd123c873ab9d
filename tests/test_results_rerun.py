"""The rows of seconds give what is stored for them, within the interval or the tolerance."""

import pytest

from src.results.comparing import compared
from src.results.rerun import rerun
from src.results.rows import GROUPS
from src.results.stored import stored_of
from src.results.tables import comparison_lines
from tests.conftest import QUIET


@pytest.mark.parametrize("row", GROUPS["tiny"].rows, ids=lambda row: row.name)
def test_a_stored_result_is_reached_again(row, tmp_path):
    seed = row.seeds[0]
    stored = {seed: stored_of(row)[seed].result}
    new = {seed: rerun(row, seed, tmp_path, QUIET)}
    found = [compared(stored, new, quoted) for quoted in row.quoted]
    assert all(one.agrees for one in found), "\n".join(comparison_lines(found))
