"""The method tester: what every method must do, tried on a tiny phantom in seconds.

    from semivox.testing import CHECKS, Candidate

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_method(check):
        check(Candidate("path/to/my_method.py:MyMethod"))

`semivox methods test path/to/my_method.py:MyMethod` does the same on the command line. For tests of what is special to
a method, `Workbench` gives it built, with real batches.
"""

from semivox.testing.candidate import Candidate
from semivox.testing.checks import CHECKS, Check
from semivox.testing.processes import TwoProcesses
from semivox.testing.report import Outcome, run_checks
from semivox.testing.workbench import Workbench

__all__ = ["CHECKS", "Candidate", "Check", "Outcome", "TwoProcesses", "Workbench", "run_checks"]
