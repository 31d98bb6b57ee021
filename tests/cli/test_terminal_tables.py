import io

import pytest
from rich.console import Console

from semivox.cli.tables import print_table
from semivox.reporting.text_table import TextTable


def printed(table, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_table(console, table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_number_is_cut_however_narrow_the_terminal(width):
    header = ("method", *(f"class_{number}" for number in range(12)))
    rows = tuple((f"[bold]method_{row}", *(f"0.{row}{place:02}" for place in range(12))) for row in range(2))
    text = printed(TextTable("Dice per class", header, rows), width)
    for cell in (*header, *rows[0][1:], *rows[1][1:]):
        assert cell in text, cell
    assert "[bold]method_1" in text  # and a name is no markup
    assert all(len(line) <= width for line in text.splitlines())
    assert text.count("[bold]method_0") == text.count("Dice per class")


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_words_and_intervals_are_whole_too(width):
    header = ("method", "selection", "Dice", "HD95 (mm)", "cases")
    rows = tuple((f"mean_teacher_{row}", "last", "0.6 (0.512 to 0.678)", "9 (8.12 to 10.54)", "45") for row in range(3))
    text = printed(TextTable("t", header, rows), width)
    for word in (*header[:3], "mean_teacher_2", "(0.512", "0.678)", "(8.12", "10.54)", "45"):
        assert word in text, word
    assert all(len(line) <= width for line in text.splitlines())
    assert text.count("selection") == 1


def test_an_interval_stands_below_its_number():
    lines = printed(TextTable("t", ("method", "Dice"), (("a", "0.800 ± 0.010 (0.700 to 0.900)"),)), 80).splitlines()
    (above,) = [place for place, line in enumerate(lines) if "0.800 ± 0.010" in line]
    assert "(0.700 to 0.900)" in lines[above + 1]
