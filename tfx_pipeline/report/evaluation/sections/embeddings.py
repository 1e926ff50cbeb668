"""The map of the embeddings: classes by color, errors with rings, thumbnails on hover and focus."""

from collections.abc import Iterator

import numpy as np
from markupsafe import Markup

from core import figures
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import absent
from tfx_pipeline.report.evaluation.sections import Section, sections
from trainers.evaluation.embeddings import PCA, EmbeddingMap

#: Classes with a separate color; more colors are hard to distinguish.
COLORS = 12
_WIDTH, _HEIGHT, _EDGE = 900, 560, 20
_PLOT = 690
# Errors that show their thumbnail; each is also a stop of the tab key.
_THUMBNAILS = 40
_SIDE = 150
_NEIGHBOR_ROWS = 18


@sections.register("embeddings")
def embeddings(evaluation: Evaluation) -> Section | None:
    """A map of the features before the classifier; None if it was not made."""
    found, note = evaluation.embeddings, evaluation.notes.get("embeddings", "")
    if found is None:
        return Section("Embeddings", absent(note), 70) if note else None
    colors = _colors(evaluation)
    body = Markup('<div class="map">{}{}</div>{}').format(
        _legend(evaluation, colors), _map(evaluation, found, colors), _neighbors(evaluation, found)
    )
    if note:
        body += absent(note)
    return Section("Embeddings", body, 70, _lead(evaluation, found))


def _lead(evaluation: Evaluation, found: EmbeddingMap) -> str:
    count, total = len(found.positions), evaluation.analysis.images
    images = figures.count(total)
    of = f"All {images}" if count == total else f"{figures.count(count)} of {images}"
    text = (
        f"{of} images by the features before the classifier. The color of a point is its label; "
        "an error has a ring in the color of the prediction. Point at a large ring, one of the "
        f"{_THUMBNAILS} most confident errors, or press Tab, to see its image. "
    )
    if found.projection.method != PCA:
        return text + (
            "t-SNE keeps neighbors together; the size of groups and the distances between them "
            "mean nothing."
        )
    share = sum(found.projection.shares)
    return text + (
        f"PCA: the two axes show {figures.percent(share)} of the variance, so images that are "
        "close in the map may differ in the rest."
    )


def _colors(evaluation: Evaluation) -> dict[int, int]:
    """Class -> color; of many classes, those with the most images in errors."""
    model = evaluation.model
    classes = len(evaluation.classes)
    if classes <= COLORS:
        return {label: label for label in range(classes)}
    wrong = model.labels[~model.correct]
    order = np.argsort(-np.bincount(wrong, minlength=classes), kind="stable")
    return {int(label): color for color, label in enumerate(sorted(order[:COLORS].tolist()))}


def _legend(evaluation: Evaluation, colors: dict[int, int]) -> Markup:
    """Buttons that show one class, all, or the errors only; they need no script."""
    names = evaluation.classes
    choices = [("all", "all", ""), ("wrong", "errors only", "")]
    choices += [(f"k{color}", names[label], f"k{color}") for label, color in colors.items()]
    if len(colors) < len(names):
        choices.append(("other", f"{len(names) - len(colors)} other classes", "other"))
    items = [
        Markup(
            '<label><input type="radio" name="map" value="{}"{}><span class="swatch {}"></span>{}'
            "</label>"
        ).format(value, Markup(" checked") if value == "all" else "", color, name)
        for value, name, color in choices
    ]
    return Markup('<fieldset class="keys"><legend>Show</legend>{}</fieldset>').format(
        Markup("").join(items)
    )


def _map(evaluation: Evaluation, found: EmbeddingMap, colors: dict[int, int]) -> Markup:
    title = f"Map of {len(found.positions):,} images by their embeddings"
    axes = ("", "")
    if found.projection.method == PCA:
        axes = tuple(
            f"component {number}, {figures.percent(share)} of the variance"
            for number, share in enumerate(found.projection.shares, start=1)
        )
    return Markup(
        '<div class="scroll">'
        '<svg class="chart points" viewBox="0 0 {} {}" role="group" aria-label="{}">'
        '<rect class="plot" width="{}" height="{}" rx="8"/>'
        '<text class="end" x="{}" y="{}">{}</text>'
        '<text transform="translate(14 {}) rotate(-90)">{}</text>{}</svg></div>'
    ).format(
        *(_WIDTH, _HEIGHT, title, _PLOT, _HEIGHT, _PLOT - 10, _HEIGHT - 8, axes[0]),
        *(_HEIGHT - 10, axes[1]),
        Markup("\n").join(_points(evaluation, found, colors)),
    )


def _points(
    evaluation: Evaluation, found: EmbeddingMap, colors: dict[int, int]
) -> Iterator[Markup]:
    """Correct images first, then errors, the most confident last so that they are on top."""
    model, names = evaluation.model, evaluation.classes
    places = dict(zip(found.positions.tolist(), _places(found), strict=True))
    wrong = [one for one in evaluation.analysis.errors.tolist() if one in places]
    shown = set(wrong[:_THUMBNAILS])
    correct = [one for one in places if model.correct[one]]
    for position in (*correct, *reversed(wrong)):
        x, y = places[position]
        label, best = int(model.labels[position]), int(model.predicted[position])
        color = _color(colors, label)
        if label == best:
            circle = Markup('<circle class="pt {}" cx="{:.1f}" cy="{:.1f}" r="2.6">{}</circle>')
            text = f"{_name(evaluation, position)}: {names[label]}"
            yield circle.format(color, x, y, _title(text))
            continue
        text = (
            f"{_name(evaluation, position)}: {names[label]}, predicted {names[best]}, "
            f"score {model.scores[position, best]:.3f}"
        )
        circle = Markup('<circle class="ring r-{}" cx="{:.1f}" cy="{:.1f}" r="{}">{}</circle>')
        radius = 6 if position in shown else 3.2
        drawn = circle.format(_color(colors, best), x, y, radius, _title(text))
        tip = _tip(evaluation, position) if position in shown else Markup("")
        stop = Markup(' tabindex="0" role="img" aria-label="{}"').format(text) if tip else ""
        yield Markup('<g class="pt wrong {}"{}>{}{}</g>').format(color, stop, drawn, tip)


def _places(found: EmbeddingMap) -> list[tuple[float, float]]:
    """(x, y) in the chart; both axes have one scale, because distances are comparable."""
    points = found.projection.points
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = _PLOT - 2 * _EDGE - 10, _HEIGHT - 2 * _EDGE - 10
    spans = np.maximum(high - low, 1e-12)
    scale = min(width / spans[0], height / spans[1])
    center = (low + high) / 2
    x = (_PLOT + 10) / 2 + (points[:, 0] - center[0]) * scale
    y = (_HEIGHT - 10) / 2 - (points[:, 1] - center[1]) * scale
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _tip(evaluation: Evaluation, position: int) -> Markup:
    """What the panel beside the plot shows of an error."""
    model, names = evaluation.model, evaluation.classes
    best = int(model.predicted[position])
    left, lines = _PLOT + 24, _SIDE + 40
    source = evaluation.thumbnails.source(str(model.ids[position]))
    image = Markup("")
    if source:
        image = Markup('<image href="{}" x="{}" y="16" width="{}" height="{}"/>').format(
            source, left, _SIDE, _SIDE
        )
    texts = (
        names[int(model.labels[position])],
        f"predicted {names[best]}",
        f"score {model.scores[position, best]:.3f}",
        _name(evaluation, position)[-26:],
    )
    rows = [
        Markup('<text x="{}" y="{}"{}>{}</text>').format(
            left, lines + 17 * row, Markup(' class="label"') if row < 2 else "", text
        )
        for row, text in enumerate(texts)
    ]
    panel = Markup('<rect x="{}" y="0" width="{}" height="{}"/>').format(
        _PLOT + 2, _WIDTH - _PLOT - 2, lines + 80
    )
    return Markup('<g class="tip" aria-hidden="true">{}{}{}</g>').format(
        panel, image, Markup("").join(rows)
    )


def _neighbors(evaluation: Evaluation, found: EmbeddingMap) -> Markup:
    """Errors beside the training images with the most similar embeddings."""
    model, names = evaluation.model, evaluation.classes
    chosen = [one for one in evaluation.analysis.errors.tolist() if one in found.neighbors]
    if not chosen:
        return Markup("")
    items = []
    for position in chosen[:_NEIGHBOR_ROWS]:
        label, best = int(model.labels[position]), int(model.predicted[position])
        own = evaluation.thumbnails.source(str(model.ids[position]))
        text = f"{names[label]}, predicted {names[best]}"
        shots = [_small(own, text, _name(evaluation, position))]
        for one in found.neighbors[position]:
            caption = f"{names[one.label]}, {one.similarity:.2f}"
            name = evaluation.others.images.files.get(one.id, "") or one.id[:12]
            shots.append(_small(evaluation.others.source(one.id), caption, name))
        items.append(Markup("<li>{}</li>").format(Markup("").join(shots)))
    return Markup(
        "<h3>Training images that are most similar to an error</h3>"
        '<p class="lead">The error first, then the training images with the most similar '
        "embeddings, with their labels and cosines. Similar images with another label show what "
        'the model confuses, or a wrong label.</p><ul class="similar">{}</ul>'
    ).format(Markup("\n").join(items))


def _small(source: str, caption: str, name: str) -> Markup:
    shown = Markup('<span class="blank"></span>')
    if source:
        shown = Markup('<img src="{}" alt="{}" title="{}" loading="lazy">').format(
            source, caption, name
        )
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(shown, caption)


def _color(colors: dict[int, int], label: int) -> str:
    return f"k{colors[label]}" if label in colors else "other"


def _name(evaluation: Evaluation, position: int) -> str:
    image_id = str(evaluation.model.ids[position])
    return evaluation.files.get(image_id, "") or image_id[:12]


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text)
