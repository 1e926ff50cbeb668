"""Finds words that our prose does not use: `python tools/prose.py [FILE_OR_FOLDER ...]`.

Prose is Markdown and HTML text, and in Python: docstrings, comments and strings that contain a
space, which covers help texts and error messages. `[words]` of `tools/prose.toml` is the table: a
regular expression and what to write instead. `make lint` and a test run it. Exit status: 0 when
nothing is found, 1 otherwise.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("prose.toml")
_CODE = re.compile(r"```.*?```|`[^`\n]*`|https?://\S+|--[\w-]+", re.DOTALL)
_TAG = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>|\{[{%].*?[%}]\}", re.DOTALL)


@dataclass(frozen=True)
class Finding:
    """A word that is not used.

    Attributes:
      file: absolute path.
      line: from 1.
      found: the text as it stands in the file.
      instead: what to write.
    """

    file: Path
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        """For the console, with a path that editors open."""
        shown = self.file.relative_to(ROOT) if self.file.is_relative_to(ROOT) else self.file
        return f"{shown}:{self.line}: {self.found!r}: write {self.instead}"


def table() -> list[tuple[re.Pattern[str], str]]:
    """The patterns of `prose.toml`, compiled, and what to write instead of each."""
    words = tomllib.loads(TABLE.read_text(encoding="utf-8"))["words"]
    return [(re.compile(rf"\b(?:{word})\b", re.I), instead) for word, instead in words.items()]


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Pairs of a line number and prose that begins there; code within the prose is blanked."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        yield from _python(text)
    else:
        plain = _TAG.sub(_blank, text) if file.suffix in (".j2", ".html") else text
        yield 1, _CODE.sub(_blank, plain)


def findings(files: list[Path]) -> list[Finding]:
    """Every use of a word of the table in the prose of `files`, in order."""
    words = table()
    found = []
    for file in files:
        for line, text in prose(file):
            for pattern, instead in words:
                for match in pattern.finditer(text):
                    at = line + text.count("\n", 0, match.start())
                    found.append(Finding(file, at, match.group(), instead))
    return sorted(found, key=lambda one: (one.file, one.line))


def files_of(paths: list[Path]) -> list[Path]:
    """The files with prose among `paths` and below them; `CHANGELOG.md` keeps old names."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    kinds = (".py", ".md", ".j2", ".html")
    files = [ROOT / name for name in listed if name.endswith(kinds)]
    return [file for file in files if file.is_file() and file != Path(__file__).resolve()]


def _python(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings, comments and strings with a space in them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, _CODE.sub(_blank, node.value)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], _CODE.sub(_blank, token.string)


def _blank(match: re.Match[str]) -> str:
    """Spaces, and the line breaks of what they replace."""
    return re.sub(r"[^\n]", " ", match.group())


def main() -> int:
    """Prints the findings; the number of them is the last line."""
    found = findings(files_of([Path(name) for name in sys.argv[1:]]))
    for one in found:
        print(one)
    if found:
        print(f"{len(found)} findings; the table is {TABLE.relative_to(ROOT)}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
