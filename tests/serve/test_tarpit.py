"""What errors cost: nothing at first, then more and more, never beyond what clients wait for."""

from __future__ import annotations

from postroad.serve.tarpit import HOLD_MAX_S, hold_s


def test_the_first_errors_are_free_and_later_ones_cost_more_and_more() -> None:
    assert [hold_s(errors - 1, errors) for errors in range(1, 16)] == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]


def test_a_pipeline_pays_for_all_its_errors_up_to_the_limit() -> None:
    assert hold_s(0, 5) == 3.0
    assert hold_s(2, 6) == 6.0
    assert hold_s(0, 20) == HOLD_MAX_S
