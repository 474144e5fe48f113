"""Decisions that all ranks take together."""

from __future__ import annotations

import pytest

from dist_ai.distributed import join
from dist_ai.distributed.coordination import Decision, Decisions, Word


@pytest.mark.world_size(3)
def test_one_ranks_vote_holds_on_all_of_them_and_is_spent_by_the_exchange() -> None:
    ranks = join()
    decisions = Decisions(ranks)
    if ranks.world.rank == 1:
        decisions.vote(Decision.CANCEL_BATCH)
    assert decisions.pending == (ranks.world.rank == 1)
    assert decisions.exchange() == Word(Decision.CANCEL_BATCH)
    assert not decisions.pending
    assert decisions.exchange() == Word(Decision.NOTHING)


@pytest.mark.world_size(3)
def test_where_ranks_vote_differently_the_stronger_decision_holds() -> None:
    ranks = join()
    decisions = Decisions(ranks)
    votes = [Decision.CANCEL_BATCH, Decision.CANCEL_EPOCH, Decision.CANCEL_STEP]
    decisions.vote(votes[ranks.world.rank])
    assert decisions.exchange().control is Decision.CANCEL_EPOCH


@pytest.mark.world_size(3)
def test_a_checkpoint_that_one_rank_asks_for_is_written_by_all_beside_any_other_decision() -> None:
    ranks = join()
    decisions = Decisions(ranks)
    if ranks.world.rank == 2:
        decisions.vote_save()
    if ranks.world.rank == 0:
        decisions.vote(Decision.CANCEL_FIT)
    assert decisions.exchange() == Word(Decision.CANCEL_FIT, save=True)
    assert decisions.exchange() == Word(Decision.NOTHING)


def test_of_two_votes_of_one_rank_the_stronger_holds_in_whatever_order() -> None:
    decisions = Decisions(join())
    for votes in ([Decision.CANCEL_STEP, Decision.CANCEL_FIT], [Decision.CANCEL_FIT, Decision.CANCEL_STEP]):
        for vote in votes:
            decisions.vote(vote)
        assert decisions.exchange() == Word(Decision.CANCEL_FIT)


def test_in_a_world_of_one_the_result_is_the_vote_itself() -> None:
    decisions = Decisions(join())
    assert decisions.exchange() == Word(Decision.NOTHING)
    decisions.vote_save()
    assert not decisions.pending  # a checkpoint cancels nothing
    decisions.vote(Decision.CANCEL_TRAIN)
    assert decisions.pending
    assert decisions.exchange() == Word(Decision.CANCEL_TRAIN, save=True)
    assert decisions.exchange() == Word(Decision.NOTHING)


def test_what_cancels_more_is_stronger() -> None:
    order = ["NOTHING", "BACKWARD", "STEP", "BATCH", "TRAIN", "VALIDATE", "EPOCH", "FIT"]
    assert [decision.name.removeprefix("CANCEL_") for decision in sorted(Decision)] == order


@pytest.mark.world_size(3)
def test_where_ranks_tell_each_other_numbers_the_largest_holds() -> None:
    ranks = join()
    decisions = Decisions(ranks)
    if ranks.world.rank == 1:
        decisions.vote_leave(15)
    word = decisions.exchange(pace_us=100 * ranks.world.rank, progress=7 * ranks.world.is_main)
    assert word == Word(leave=15, pace_us=200, progress=7)
    assert decisions.exchange() == Word()


def test_votes_that_are_set_aside_come_back() -> None:
    decisions = Decisions(join())
    decisions.vote(Decision.CANCEL_FIT)
    decisions.vote_save()
    with decisions.set_aside():
        assert decisions.exchange() == Word()
        decisions.vote(Decision.CANCEL_BATCH)
    assert decisions.exchange() == Word(Decision.CANCEL_FIT, save=True)
