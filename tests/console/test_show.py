"""Rows as a terminal shows them."""

from __future__ import annotations

import click
import pytest

from postroad.console.cli.show import count, table


def plain(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [click.unstyle(line) for line in table(head, rows)]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert plain(("id", "from"), [("0ACF780S1BW02", "a@b.test"), ("0ACF780S1BW03", "<>")]) == [
        "id             from",
        "0ACF780S1BW02  a@b.test",
        "0ACF780S1BW03  <>",
    ]


@pytest.mark.parametrize("cells", [("1", "1,200"), ("-", "5 GB"), ("26 s", "2 min 5 s"), ("0.97 s", "3 d 4 h")])
def test_figures_stand_to_the_right(cells: tuple[str, str]) -> None:
    width = max(map(len, cells))
    assert plain(("n", "x"), [(cell, "y") for cell in cells])[1:] == [f"{cell:>{width}}  y" for cell in cells]


@pytest.mark.parametrize(
    "cells", [("451 4.4.1 connection refused", "-"), ("2026-11-23 18:11:00", "-"), ("now", "in 5 s")]
)
def test_words_and_dates_stand_to_the_left(cells: tuple[str, str]) -> None:
    assert [line.index("y") for line in plain(("n", "x"), [(cell, "y") for cell in cells])[1:]] == [
        max(map(len, cells)) + 2
    ] * 2
    assert plain(("n", "x"), [(cell, "y") for cell in cells])[2].startswith(cells[1])


def test_counts_with_their_noun() -> None:
    assert count(1, "message") == "1 message"
    assert count(1200, "delivery", "deliveries") == "1,200 deliveries"
