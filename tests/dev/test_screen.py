"""The same words reach a terminal, a pipe and a poor terminal; only the looks differ."""

from __future__ import annotations

import io

import pytest

from postroad.dev.screen import Screen, ScreenGone


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    def shown(self) -> str:
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode(self.encoding)


def test_a_terminal_gets_colours() -> None:
    terminal = Terminal()
    Screen.on(terminal, {"TERM": "xterm"}).success("it went well")
    assert "\x1b[32m✓\x1b[0m it went well\n" in terminal.shown()


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_nobody_wants_them(environ: dict[str, str]) -> None:
    terminal = Terminal()
    Screen.on(terminal, environ).failure("it did not")
    assert terminal.shown() == "   ✗ it did not\n"


def test_an_empty_no_color_is_none() -> None:
    assert Screen.on(Terminal(), {"NO_COLOR": "", "TERM": "xterm"}).colour


def test_a_pipe_gets_whole_plain_lines() -> None:
    pipe = io.StringIO()
    screen = Screen.on(pipe, {"TERM": "xterm"})
    screen.wrapped("word " * 60, meaning="quiet")
    screen.line("strong", "strong")
    assert pipe.getvalue() == "   " + "word " * 60 + "\nstrong\n"


def test_words_instead_of_symbols_where_there_are_none() -> None:
    terminal = Terminal("ascii")
    screen = Screen.on(terminal, {"NO_COLOR": "1"})
    screen.success("this")
    screen.failure("that")
    assert terminal.shown() == "   ok this\n   FAILED that\n"


def test_long_lines_are_broken_between_words_on_a_terminal_and_keep_their_indent() -> None:
    terminal = Terminal()
    screen = Screen(terminal, colour=False, width=40)
    screen.success("one two three four five six seven eight nine ten")
    lines = terminal.shown().splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 40 for line in lines)
    assert lines[1].startswith("     ")
    assert " ".join(" ".join(lines).split()) == "✓ one two three four five six seven eight nine ten"


def test_a_closed_pipe_is_told_from_other_errors() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(ScreenGone):
        Screen.on(Closed()).line("nobody reads this")


def test_an_aside_stays_in_one_piece() -> None:
    terminal = Terminal()
    Screen(terminal, colour=True, width=30).success("one two three four five", "1234 ms")
    lines = terminal.shown().splitlines()
    assert lines == ["   \x1b[32m✓\x1b[0m one two three four five", "     \x1b[2m1234 ms\x1b[0m"]
    pipe = io.StringIO()
    Screen.on(pipe).success("one", "2 ms")
    assert pipe.getvalue() == "   ok one 2 ms\n"
