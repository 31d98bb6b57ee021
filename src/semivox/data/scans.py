"""Folders of scans: which files make one case."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from semivox.data.case import Case
from semivox.data.fault import Fault, FaultError
from semivox.data.image import ENDINGS


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorting key that puts case2 before case10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def scans_in(folder: Path, channels: int = 1, ending: str | None = None) -> list[Case]:
    """The scans of a folder as cases without label, in natural order: CASE_0000.nii.gz, CASE_0001.nii.gz, ...

    `channels` is the number of files of a case; where it is one, any name will do. `ending` None takes every file that
    can be read. Raises FaultError for a missing channel, or where nothing is found.
    """
    faults: list[Fault] = []
    cases = find_scans(Path(folder), [ending] if ending else ENDINGS, lambda _: channels, faults, plain_names=True)
    if not cases and not faults:
        what = f"holds no scan that ends in {ending or ', '.join(ENDINGS)}"
        faults.append(Fault("", Path(folder), what, "name the folder that holds the scans, such as imagesTs"))
    for fault in faults:
        if fault.is_error:
            raise FaultError(fault)
    return cases


def find_scans(
    folder: Path,
    endings: Sequence[str],
    files_per_case: Callable[[Iterable[int]], int],
    faults: list[Fault],
    plain_names: bool = False,
) -> list[Case]:
    """Files CASE_0000.ext, CASE_0001.ext, ... of a folder as cases; what does not fit is added to `faults`.

    `files_per_case` is given the channel numbers that occur. With `plain_names`, and one file per case, file names
    need no channel number.
    """
    stems: list[tuple[str, Path]] = []
    for path in visible_files(folder):
        ending = next((ending for ending in endings if path.name.endswith(ending)), None)
        if ending:
            stems.append((path.name.removesuffix(ending), path))
        elif path.name.lower().endswith(ENDINGS):
            what = f"is not read, since it does not end in {' or '.join(endings)}"
            faults.append(Fault("", path, what, "convert it, or move it elsewhere", is_error=False))

    numbered = [(re.fullmatch(r"(.+)_([0-9]{4})", stem), stem, path) for stem, path in stems]
    count = files_per_case(int(match[2]) for match, _, _ in numbered if match)
    is_plain = plain_names and count == 1 and not all(match and match[2] == "0000" for match, _, _ in numbered)
    cases: dict[str, dict[int, Path]] = {}
    for match, stem, path in numbered:
        if not match and not is_plain:
            mend = f"rename it to {stem}_0000{path.name.removeprefix(stem)}"
            faults.append(Fault(stem, path, "has no channel number in its name", mend))
            continue
        case_id, channel = (stem, 0) if is_plain or not match else (match[1], int(match[2]))
        twin = cases.setdefault(case_id, {}).setdefault(channel, path)
        if twin != path:
            faults.append(Fault(case_id, path, f"the case is there twice: also as {twin.name}", "remove one of them"))
    return _whole(cases, count, faults)


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder in natural order, without hidden ones; none where there is no such folder.

    What is named like a scan but is no file (a link that leads nowhere, a folder) is among them: reading it tells so,
    where passing it over would make an unlabelled case of a labelled one.
    """
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".") and _is_file_or_looks_so(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FaultError(Fault("", folder, f"cannot be listed ({error.strerror})", "make it readable")) from None
    return sorted(files, key=lambda path: natural_order(path.name))


def _is_file_or_looks_so(path: Path) -> bool:
    return path.is_file() or (path.name.lower().endswith(ENDINGS) and (path.is_dir() or not path.exists()))


def _whole(found: dict[str, dict[int, Path]], count: int, faults: list[Fault]) -> list[Case]:
    """The cases that have all their channels and no further one."""
    cases = []
    for case_id, files in sorted(found.items(), key=lambda item: natural_order(item[0])):
        present = next(iter(files.values()))
        missing = [f"{channel:04}" for channel in range(count) if channel not in files]
        extra = [path for channel, path in sorted(files.items()) if channel >= count]
        if missing:
            what = f"channel {', '.join(missing)} is missing beside it ({count} of a case are declared)"
            mend = f"add {case_id}_{missing[0]}, or remove the case"
            faults.append(Fault(case_id, present, what, mend))
        elif extra:
            what = f"is one channel too many ({count} of a case are declared)"
            mend = "name it under `channel_names` in dataset.json, or remove it"
            faults.append(Fault(case_id, extra[0], what, mend))
        else:
            cases.append(Case(case_id, tuple(files[channel] for channel in range(count))))
    return cases
