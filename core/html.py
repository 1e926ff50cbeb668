"""The one Jinja environment of all HTML pages: self-contained and offline.

A page extends `base.html.j2` (`{% extends base %}`), whose content security policy forbids every
request and script: a page can be mailed, archived and opened years later, and no text of a data set
can run. A page that needs a script allows the digest of that script in the block `policy`.
All pages share the styles of `page.css`: colors for light and dark mode, tables, charts and print.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from core import figures

_FOLDER = Path(__file__).parent
# Named here so that a change of these files counts as a change of this module's code.
_BASE, _STYLES = "base.html.j2", "page.css"


def render(folder: Path, template: str, **values: object) -> str:
    """The page that a template makes of `values`.

    Text is escaped; a value that is missing is an error. Templates can call the functions of
    `core.figures` as `figures`.

    Args:
      folder: of the template and of those that it includes.
      template: file name.
      **values: by the names that the template uses.

    Raises:
      jinja2.TemplateError: the template is missing, has a syntax error, or uses an unknown name.
    """
    return _environment(folder).get_template(template).render(**values)


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles = Markup((_FOLDER / _STYLES).read_text(encoding="utf-8"))
    environment.globals.update(base=_BASE, styles=styles, figures=figures)
    return environment
