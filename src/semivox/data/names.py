"""Names of cases that come from outside: file names, lists, descriptions."""

import re

RESERVED = re.compile(r"[^\w.+-]+")


def safe_id(name: str) -> str:
    """`name` as a case id that can be a file name anywhere: no separators, spaces, control letters or leading dots.

    >>> safe_id("../patient 1/scan")
    'patient_1_scan'
    """
    return RESERVED.sub("_", name).strip("._-") or "case"
