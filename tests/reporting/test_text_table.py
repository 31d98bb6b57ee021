import re

from semivox.reporting.text_table import TextTable, latex

TABLE = TextTable(
    "Dice & more", ("method", "Dice", "source"), (("a_b", "0.8 ± 0.1", "x|y"), ("c", "–", "50 %")), ("source",)
)


def test_markdown_keeps_pipes_within_cells():
    title, blank, *rows = TABLE.markdown().splitlines()
    assert (title, blank) == ("**Dice & more**", "")
    assert rows == [
        "| method | Dice | source |",
        "| --- | --- | --- |",
        "| a_b | 0.8 ± 0.1 | x\\|y |",
        "| c | – | 50 % |",
    ]


def test_latex_is_a_booktabs_table_with_words_to_the_left():
    text = TABLE.latex()
    assert r"\begin{tabular}{lrl}" in text
    assert r"\caption{Dice \& more}" in text
    assert text.count(r" \\") == 3
    assert r"a\_b & 0.8 $\pm$ 0.1 & x\textbar{}y \\" in text
    assert [line for line in text.splitlines() if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_nothing_that_latex_would_obey_is_left_of_a_name():
    told = latex("\\input{/etc/passwd} $x^2$ 50% a_b #1 ~ & [5pt]\nnext")
    assert "\n" not in told
    assert re.search(r"(?<!\\)[$%&#_](?!x)", told.replace(r"\$x", "")) is None
    assert told.startswith(r"\textbackslash{}input\{/etc/passwd\}")
    assert "{[}5pt]" in told
