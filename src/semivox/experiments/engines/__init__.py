"""What runs the cells of a benchmark: this machine, a SLURM or a Ray cluster. `task` is what they have in common."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from semivox.errors import SettingError, unknown
from semivox.experiments.engines.local import JOBS, Local, LocalOptions
from semivox.experiments.engines.ray_cluster import Ray, RayOptions
from semivox.experiments.engines.slurm import Slurm, SlurmOptions
from semivox.experiments.engines.task import Engine
from semivox.settings import Part, first_fault

OPTIONS: dict[str, type[Part]] = {"local": LocalOptions, "slurm": SlurmOptions, "ray": RayOptions}


def make_engine(name: str, options: Sequence[str], jobs: int | None, out: Path) -> Engine:
    """The engine of this name. options: `name=value`, see `OPTIONS`. jobs: tasks at once, None for the engine's own
    number. out: the folder of the runs.

    Raises SettingError for an unknown name or option, and where the engine's package is not installed.
    """
    if name not in OPTIONS:
        raise unknown("engine", name, OPTIONS)
    asked = read_options(name, options)
    if isinstance(asked, SlurmOptions):
        return Slurm(asked, jobs, out.resolve() / "logs" / "slurm")
    if isinstance(asked, RayOptions):
        return Ray(asked, jobs)
    return Local(jobs or JOBS)


def read_options(name: str, options: Sequence[str]) -> Part:
    """What `--engine-option` says."""
    given = {}
    for text in options:
        option, sign, value = text.partition("=")
        if not sign:
            raise SettingError(f"--engine-option {text}: give it as NAME=VALUE")
        given[option] = value
    try:
        return OPTIONS[name].model_validate(given)
    except ValidationError as error:
        raise SettingError(f"--engine {name}, --engine-option {first_fault(error, OPTIONS[name])}") from None
