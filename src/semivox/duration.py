"""Times as people type them."""

import re

UNITS_S = {"h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> int:
    """Seconds of a time such as 90s, 10m or 1h30m. Raises ValueError for anything else."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or parts is None:
        raise ValueError(f"{text} is not a time; give it as 90s, 10m or 1h30m")
    return sum(int(number or 0) * unit_s for number, unit_s in zip(parts.groups(), UNITS_S.values(), strict=True))
