"""Short text and HTML, of any values."""

from __future__ import annotations

import pytest

from intake_idc import display


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (10_835_349_558, "10.84 GB"),
        (99_945_000_000_000, "99.94 TB"),
        (2_000_000_000_000_000, "2000.00 TB"),
    ],
)
def test_bytes_are_in_decimal_units(size, text):
    assert display.bytes_text(size) == text


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "collection", "1 collection"),
        (179, "collection", "179 collections"),
        (1_044_191, "series", "1,044,191 series"),
        (2, "study", "2 studies"),
    ],
)
def test_a_count_agrees_with_its_noun(count, noun, text):
    assert display.count_text(count, noun) == text


def test_pairs_are_aligned_under_their_title():
    text = display.pairs("Title", [("a", 1), ("long name", "x")])
    assert text == "Title\n  a          1\n  long name  x"
    assert display.pairs("Title", []) == "Title"


def test_numbers_stand_to_the_right_and_nothing_breaks_a_line():
    text = display.rows(["n", "text"], [[1, "a\nb\x00"], [1_000, None]])
    assert text.splitlines() == ["    n  text", "    1  a\ufffdb\ufffd", "1,000  -"]


def test_no_pair_gives_a_terminal_orders():
    text = display.pairs("a\x1b[2J", [("where", "\x1b]0;x\x07")])
    assert text == "a\ufffd[2J\n  where  \ufffd]0;x\ufffd"
    assert display.rows(["n"], []) == "n"


def test_html_is_escaped():
    text = display.pairs_html("<b>", [("<i>", "<script>alert(1)</script>")])
    assert "<script>" not in text
    assert "&lt;b&gt;" in text
    assert "&lt;i&gt;" in text
