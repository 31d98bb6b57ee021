"""The process of one way of doing a work: a turn for every line that comes in. Started by `benchmarks.turns`, perhaps
in an environment without Semivox.

    python -m benchmarks.turn MODULE FUNCTION ARGUMENTS KEEP
"""

import importlib
import json
import os
import resource
import sys
import time

import numpy as np


def main() -> None:
    # Packages print what they like; what is answered goes where no print of theirs can come between.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, function, arguments, keep = sys.argv[1:]
    turn = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    for _ in sys.stdin:
        started = time.process_time()
        found = turn()
        seconds = time.process_time() - started
        if keep:
            np.savez(keep, **found)
            keep = ""
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gib": peak_gib}), file=answers, flush=True)


if __name__ == "__main__":
    main()
