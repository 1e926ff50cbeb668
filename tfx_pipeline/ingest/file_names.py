"""File names as lists and tables write them, also those of Windows."""

import re
from pathlib import Path

_WINDOWS_ROOT = re.compile(r"^(?:[A-Za-z]:|\\\\)")


def with_slashes(name: str) -> str:
    r"""A relative path with `/`, without `./` in front: `images\\a.jpg`, `.\\images\\a.jpg`."""
    slashed = re.sub(r"/{2,}", "/", name.replace("\\", "/"))
    while slashed.startswith("./"):
        slashed = slashed[2:]
    return slashed


def is_of_elsewhere(name: str) -> bool:
    r"""Whether a path begins on another machine or above its list: `C:\\`, `/`, `..`."""
    return bool(_WINDOWS_ROOT.match(name)) or with_slashes(name).startswith(("/", "../", "~"))


def existing(folder: Path, name: str) -> Path:
    r"""The file that a list in `folder` calls `name`: as it stands, or else with `/` for `\\`.

    Where neither exists it is the path that was looked for last.
    """
    path = folder / name
    return folder / with_slashes(name) if "\\" in name and not path.is_file() else path
