"""What a data set is, how it is read, and what is wrong with it."""

from semivox.data.case import Case, Dataset
from semivox.data.fault import Fault, FaultError
from semivox.data.labels import IGNORE, LabelMap

__all__ = ["IGNORE", "Case", "Dataset", "Fault", "FaultError", "LabelMap"]
