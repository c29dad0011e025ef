"""What `tests.mutations` takes out is there, and so are the tests that have to notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_can_be_applied(mutation: Mutation) -> None:
    text = (ROOT / "langgraph_ws" / mutation.file).read_text()
    assert mutation.applied(text) != text
    assert all(Path(ROOT, test).exists() for test in mutation.tests.split())


def test_what_is_not_there_cannot_be_taken_out() -> None:
    mutation = Mutation("nothing", "a.py", "x", "y", "tests/test_log.py")
    with pytest.raises(ValueError, match=r"nothing: expected `old` once in a\.py"):
        mutation.applied("")
