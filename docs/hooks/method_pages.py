"""Makes a page for every method when the site is built, from what the code itself says."""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from semivox.methods import METHODS, find_method
from semivox.reporting.catalogue import method_page

MEASURED = Path(__file__).resolve().parents[2] / "benchmarks" / "measured.json"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds methods/NAME.md for each and methods/index.md for all."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8")).get("methods", {}).get("figures", {})
    rows = ["# Methods", "", "Pages made from the code. Cost: arithmetic of a step, labelled-only training is 1.", ""]
    rows += ["| method | cost | paper |", "|---|---|---|"]
    for name in METHODS:
        Kind = find_method(name)
        cost = Kind.demand(Kind.Settings()).relative_cost
        rows.append(f"| [{name}]({name}.md) | {cost:.1f} | {Kind.paper} |")
        files.append(File.generated(config, f"methods/{name}.md", content=method_page(name, measured.get(name, {}))))
    files.append(File.generated(config, "methods/index.md", content="\n".join(rows)))
    return files
