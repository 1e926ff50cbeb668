"""Images with captions, as HTML."""

from collections.abc import Iterable
from typing import NamedTuple

from markupsafe import Markup


class Shot(NamedTuple):
    """An image with its caption.

    Attributes:
      source: data URI, or empty.
      reason: why there is no image, shown in its stead.
      heading: such as `cat, predicted dog`.
      detail: such as a score.
      name: of the file.
    """

    source: str
    reason: str
    heading: str
    detail: str
    name: str


def shot_list(shots: Iterable[Shot]) -> Markup:
    """A list of images; text is escaped."""
    return Markup('<ul class="gallery">\n{}\n</ul>').format(Markup("\n").join(map(_item, shots)))


def _item(shot: Shot) -> Markup:
    if shot.source:
        shown = Markup('<img src="{}" alt="{}">').format(shot.source, shot.heading)
    else:
        shown = Markup('<span class="blank">{}</span>').format(shot.reason)
    return Markup(
        "<li><figure>{}<figcaption><b>{}</b><span>{}</span>"
        '<span class="file">{}</span></figcaption></figure></li>'
    ).format(shown, shot.heading, shot.detail, breakable(shot.name))


def breakable(path: str) -> Markup:
    """A file name that may be broken after each slash; its text is escaped."""
    return Markup("/<wbr>").join(path.split("/"))
