"""The list of faults that the tests must notice is up to date (``make mutants`` tries them, which takes half an hour)."""

import mutants
import pytest


def test_every_mutant_can_be_made():
    assert [str(mutant) for mutant in mutants.stale()] == []


@pytest.mark.parametrize("room", mutants.ROOMS)
def test_every_room_of_the_core_has_ten(room):
    assert sum(mutant.room == room for mutant in mutants.MUTANTS) >= 10
