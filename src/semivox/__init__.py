"""Semivox trains medical image segmentation models from a handful of labelled scans and many unlabelled ones.

The command line's functions are here too: `semivox.train(...)`, `semivox.predict(...)`, and so on. Names are imported
when they are first used, so that `import semivox` is immediate.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from semivox.data.case import Case, Dataset
    from semivox.data.collecting import init
    from semivox.data.conversion import convert
    from semivox.data.integrity import check
    from semivox.data.joining import join
    from semivox.data.layout import read_dataset
    from semivox.errors import SemivoxError
    from semivox.evaluation.evaluate import evaluate
    from semivox.experiments.benchmark import benchmark, make_grid
    from semivox.experiments.compare import compare
    from semivox.experiments.predict import predict
    from semivox.experiments.pseudo_label import pseudo_label
    from semivox.experiments.train import resume, train
    from semivox.methods.method import Method, MethodSettings, Stage
    from semivox.planning.demand import Demand, Views
    from semivox.planning.plan import Plan
    from semivox.reporting.report import write_report

_PLACES = {
    "Case": "data.case",
    "Dataset": "data.case",
    "Demand": "planning.demand",
    "Method": "methods.method",
    "MethodSettings": "methods.method",
    "Plan": "planning.plan",
    "SemivoxError": "errors",
    "Stage": "methods.method",
    "Views": "planning.demand",
    "benchmark": "experiments.benchmark",
    "check": "data.integrity",
    "compare": "experiments.compare",
    "convert": "data.conversion",
    "evaluate": "evaluation.evaluate",
    "init": "data.collecting",
    "join": "data.joining",
    "make_grid": "experiments.benchmark",
    "predict": "experiments.predict",
    "pseudo_label": "experiments.pseudo_label",
    "read_dataset": "data.layout",
    "resume": "experiments.train",
    "train": "experiments.train",
    "write_report": "reporting.report",
}

__all__ = [
    "Case",
    "Dataset",
    "Demand",
    "Method",
    "MethodSettings",
    "Plan",
    "SemivoxError",
    "Stage",
    "Views",
    "__version__",
    "benchmark",
    "check",
    "compare",
    "convert",
    "evaluate",
    "init",
    "join",
    "make_grid",
    "predict",
    "pseudo_label",
    "read_dataset",
    "resume",
    "train",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'semivox' has no attribute '{name}'")
    return getattr(importlib.import_module(f"semivox.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
