"""Typed settings: the base of plans, configs and settings of networks and methods."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Part(BaseModel):
    """Base of every part of a plan or config: an unknown name is an error, values are frozen, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def first_fault(error: ValidationError) -> str:
    """The first fault of a validation as one line: field, what is wrong, what was given."""
    fault = error.errors()[0]
    name = ".".join(str(part) for part in fault["loc"]) or "value"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {message[0].lower()}{message[1:]}"
