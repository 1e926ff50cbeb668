"""Finds words that the project's prose avoids: `python tools/prose.py [FILE_OR_FOLDER ...]`.

Prose is Markdown; the text, `alt`, `title` and `aria-label` of HTML and its templates; docstrings,
comments, help texts and strings that contain a space in Python; comments and quoted text in shell
scripts, the Makefile, TOML and YAML. Code in backticks or fences, flags and URLs are skipped.
`[words]` of `tools/prose.toml` is the table: a regular expression and what to write instead.
Exit status: 0 when nothing is found, 1 otherwise.
"""

import ast
import io
import itertools
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("prose.toml")
_CODE = re.compile(r"```.*?```|`[^`]*`|https?://\S+|--[\w-]+", re.DOTALL)
_SCRIPT = re.compile(r"<(style|script)\b.*?</\1>", re.DOTALL)
_EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")
# What a reader sees of an expression or a tag: strings of several words, and text attributes.
_STRING = re.compile(r"(['\"])[^'\"]* [^'\"]*\1")
_ATTRIBUTE = re.compile(r"\b(?:alt|title|aria-label|placeholder)=\"[^\"]*\"")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*|([\"'])[^\"'\n]* [^\"'\n]*\1", re.MULTILINE)
_HELP = ("help", "epilog")
_HTML = (".html", ".j2")
_COMMENTED = (".sh", ".toml", ".yaml", ".yml", ".config")
_NAMES = ("Makefile", "Dockerfile", "run")


@dataclass(frozen=True)
class Finding:
    """A word of the table in a file.

    Attributes:
      file: absolute path.
      line: from 1.
      found: the text as it is in the file.
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


def table(file: Path = TABLE) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of a table such as `prose.toml`, compiled, and what to write instead of each."""
    words = tomllib.loads(file.read_text(encoding="utf-8"))["words"]
    return [(re.compile(rf"\b(?:{word})\b", re.I), instead) for word, instead in words.items()]


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Pairs of a line number and the prose that starts there, with code replaced by backticks."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        parts = _python(text)
    elif file.suffix in _HTML:
        parts = [(1, _html(text))]
    elif file.suffix == ".md":
        parts = [(1, text)]
    else:
        found = _COMMENT.finditer(text)
        parts = [(text.count("\n", 0, one.start()) + 1, one.group()) for one in found]
    for line, part in parts:
        yield line, _CODE.sub(lambda one: re.sub(r"[^\n]", "`", one.group()), part)


def findings(files: Sequence[Path], words: Sequence[tuple[re.Pattern[str], str]]) -> list[Finding]:
    """Every use of a word of a `table` in the prose of `files`, in order."""
    found = []
    for file in files:
        for line, text in prose(file):
            # Patterns of several words also match where the text is wrapped.
            flat = re.sub(r"\s+", " ", text)
            for pattern, instead in words:
                for match in pattern.finditer(flat):
                    number = line + _lines_before(flat.count(" ", 0, match.start()), text)
                    found.append(Finding(file, number, match.group(), instead))
    return sorted(found, key=lambda one: (one.file, one.line))


#: Folders that `make` writes.
_OUTPUTS = {".venv", ".tools", ".git", "__pycache__", "demo", "build", "dist"}


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files with prose among `paths` and below them, without the table itself."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    stdout = ""
    if shutil.which("git"):
        command += map(str, paths)
        stdout = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    listed = stdout.split("\0")
    if not stdout:  # An archive of the sources, without git.
        below = [file for path in paths for file in [path, *path.rglob("*")]]
        listed = [str(file) for file in below if not _OUTPUTS.intersection(file.parts)]
    kinds = (".py", ".md", *_HTML, *_COMMENTED)
    files = [ROOT / name for name in sorted(listed)]
    return [
        file
        for file in files
        if (file.suffix in kinds or file.name in _NAMES) and file.is_file() and file != TABLE
    ]


def _python(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings, comments, help texts and strings of several words."""
    tree = ast.parse(text)
    helps = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in _HELP
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if " " in node.value or id(node) in helps:
            yield node.lineno, node.value
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    yield from _comments([one for one in tokens if one.type == tokenize.COMMENT])


def _comments(tokens: Sequence[tokenize.TokenInfo]) -> Iterator[tuple[int, str]]:
    """Comments; those of successive lines and one column are one text."""
    start, text, below = 0, "", (0, 0)
    for token in tokens:
        if token.start != below:
            yield start, text
            start, text = token.start[0], ""
        text += token.string.removeprefix("#") + "\n"
        below = (token.start[0] + 1, token.start[1])
    yield start, text


def _lines_before(gaps: int, text: str) -> int:
    """How many line breaks are in `text` up to its n-th run of whitespace, `gaps` being n."""
    runs = re.findall(r"\s+", text)
    return sum(run.count("\n") for run in runs[:gaps])


def _html(text: str) -> str:
    """The text of a page or of its template; the rest is blank."""
    text = _SCRIPT.sub(_blank, text)
    text = _EXPRESSION.sub(lambda one: _blank_except(_STRING, one.group()), text)
    return _TAG.sub(lambda one: _blank_except(_ATTRIBUTE, one.group()), text)


def _blank_except(kept: re.Pattern[str], text: str) -> str:
    """`text` with everything blank that `kept` does not match."""
    ends = [0, *(end for match in kept.finditer(text) for end in match.span()), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(ends)]
    return "".join(part if i % 2 else _spaces(part) for i, part in enumerate(parts))


def _blank(match: re.Match[str]) -> str:
    return _spaces(match.group())


def _spaces(text: str) -> str:
    """As many spaces; line breaks stay."""
    return re.sub(r"[^\n]", " ", text)


def main() -> int:
    """Prints the findings, then how many there are; the exit status is the module's docstring's."""
    found = findings(files_of([Path(name) for name in sys.argv[1:]]), table())
    for one in found:
        print(one)
    if found:
        print(f"{len(found)} findings; the table is {TABLE.relative_to(ROOT)}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
