"""Tables of ready text, for the terminal, Markdown, HTML and LaTeX."""

from dataclasses import dataclass

LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a line break it would begin an option
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "–": "--",
    "·": r"$\cdot$",
}
"""Character → what LaTeX prints it from, in text."""


@dataclass(frozen=True)
class TextTable:
    """A title, a header and rows of text, all as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = ()
    """Columns beside the first that hold words, not numbers: set flush left, and broken where they are long."""

    @property
    def are_words(self) -> tuple[bool, ...]:
        """Column by column."""
        return tuple(not place or title in self.words for place, title in enumerate(self.header))

    def markdown(self) -> str:
        """As a GitHub table below its title; ends in a line break."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        return f"**{self.title}**\n\n{text}\n"

    def latex(self) -> str:
        """As a floating table with a caption, for the package booktabs; ends in a line break."""
        header, *rows = (" & ".join(map(latex, line)) + r" \\" for line in (self.header, *self.rows))
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex(self.title)}}}",
                rf"\begin{{tabular}}{{{''.join('l' if words else 'r' for words in self.are_words)}}}",
                *(r"\toprule", header, r"\midrule", *rows, r"\bottomrule"),
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def latex(text: str) -> str:
    """Text as LaTeX prints it: what would be a command or a comment there is escaped."""
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
