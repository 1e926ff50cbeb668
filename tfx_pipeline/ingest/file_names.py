"""File names in lists and tables, including Windows paths, macOS Unicode forms and URLs."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

_WINDOWS_ROOT = re.compile(r"^(?:[A-Za-z]:|\\\\)")
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://?")
#: Suffixes of image files, including formats that ingest rejects with a reason.
IMAGE_SUFFIXES = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "gif", "bmp", "dib", "webp"),
    *("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "avif", "avifs", "jp2", "j2k", "heic", "heif"),
)
IMAGE_FILE = re.compile(rf"\.(?:{'|'.join(IMAGE_SUFFIXES)})$", re.IGNORECASE)


def with_slashes(name: str) -> str:
    r"""A path with `/` and without a leading `./`: `images/a.jpg` for `.\\images\\a.jpg`."""
    slashed = re.sub(r"/{2,}", "/", name.replace("\\", "/"))
    while slashed.startswith("./"):
        slashed = slashed[2:]
    return slashed


def is_of_elsewhere(name: str) -> bool:
    r"""Whether a path is absolute, above its list or a URL: `C:\\`, `/`, `..`, `https://`."""
    return bool(_WINDOWS_ROOT.match(name) or _URL.match(name)) or with_slashes(name).startswith(
        ("/", "../", "~")
    )


def folded(name: str) -> str:
    """A name in lower case and one Unicode form, as Windows and macOS compare names."""
    return unicodedata.normalize("NFC", name).casefold()


def spellings(name: str) -> Iterator[str]:
    """Variants of a path: as written, with `/`, without a URL's scheme and query, and unquoted."""
    yield name
    slashed = with_slashes(name)
    found = _URL.match(name)
    if found:
        local = found.group(1).lower() == "file"
        slashed = name[found.end() :] if local else name[found.end() :].partition("?")[0]
        slashed = "/" + slashed.lstrip("/") if local else slashed
    yield slashed
    if "%" in slashed:
        yield unquote(slashed)


class Finder:
    """Finds the files in a folder that a list or table names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The file that a name refers to; None if there is none or more than one.

        This is the file with exactly this path; otherwise the one whose path differs in case,
        Unicode form, `%20` for a space or a missing suffix; otherwise, for a path of another
        machine, the one whose path below the folder is the end of the name.
        """
        every = list(dict.fromkeys(spellings(name)))
        # A name that is too long or contains NUL is invalid.
        if "\0" in name or max(map(len, every)) > 4000:
            return None
        exact = (self._folder / one for one in every)
        near = (self._near(one) for one in every)
        ends = (self._by_end(one) for one in every if is_of_elsewhere(name))
        for tried in (exact, near, ends):
            found = next((one for one in tried if one is not None and _is_file(one)), None)
            if found is not None:
                return found
        return None

    def _near(self, name: str) -> Path | None:
        """The file whose path equals `name` except for case, Unicode form and suffix."""
        folder = self._folder
        *parents, last = name.split("/")
        for part in (*parents, last):
            if part in ("", ".", ".."):
                folder = Path("/") if part == "" and folder == self._folder else folder / part
                continue
            below = folder / part
            if not _exists(below):
                found = self._listed(folder).get(folded(part), [])
                if not found and part is last and not IMAGE_FILE.search(part):
                    found = self._listed(folder).get(f"{folded(part)}.*", [])
                if len(found) != 1:
                    return None
                below = folder / found[0]
            folder = below
        return folder

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        """Folded name, with and without an image suffix -> the names in a folder."""
        if folder not in self._entries:
            found: dict[str, list[str]] = {}
            for one in sorted(folder.iterdir()) if folder.is_dir() else ():
                found.setdefault(folded(one.name), []).append(one.name)
                if IMAGE_FILE.search(one.name):
                    found.setdefault(f"{folded(one.stem)}.*", []).append(one.name)
            self._entries[folder] = found
        return self._entries[folder]

    def _by_end(self, name: str) -> Path | None:
        """The file whose path below the folder is the longest matching end of `name`."""
        parts = [one for one in name.replace("\\", "/").split("/") if one]
        ends = ("/".join(parts[-count:]) for count in range(len(parts), 0, -1))
        near = (self._near(one) for one in ends)
        return next((one for one in near if one is not None and _is_file(one)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
