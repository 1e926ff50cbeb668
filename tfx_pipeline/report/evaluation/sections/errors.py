"""Wrong images: the most confident, confused pairs, suspect labels and near-duplicates."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from components.data_validation.anomaly import KINDS, Anomaly, Location
from core import figures
from tfx_pipeline.report.evaluation.context import Evaluation
from tfx_pipeline.report.evaluation.markup import absent, gallery
from tfx_pipeline.report.evaluation.sections import Section, sections
from tfx_pipeline.report.shots import breakable
from tfx_pipeline.report.thumbnails import Thumbnails
from trainers.evaluation.error_analysis import Confusion, confusions
from trainers.evaluation.stats import proportion_interval

SHOWN_ERRORS = 36
SHOWN_SUSPECTS = 24
_SHOWN_PAIRS = 12
_SHOWN_OF_PAIR = 8
_SHOWN_DUPLICATES = 18


@sections.register("errors")
def errors(evaluation: Evaluation) -> Section:
    """The wrong images with the highest scores."""
    found = evaluation.analysis.errors
    model, names = evaluation.model, evaluation.classes
    share = proportion_interval(len(found), evaluation.analysis.images)
    lead = (
        f"{figures.count(len(found))} of {figures.count(evaluation.analysis.images)} images are "
        f"wrong: {figures.percent(share.value)}, 95 % interval "
        f"{figures.percent_interval(share.as_list())}."
    )
    if not len(found):
        return Section("Errors", absent("The model classifies all images correctly."), 60, lead)
    body = gallery(
        evaluation,
        (
            (
                position,
                f"{names[model.labels[position]]}, predicted {names[model.predicted[position]]}",
                f"score {model.scores[position].max():.3f}",
            )
            for position in found[:SHOWN_ERRORS].tolist()
        ),
    )
    lead += f" {_most('The most confident', len(found), SHOWN_ERRORS)}; errors.csv has all."
    return Section("Errors", body, 60, lead)


@sections.register("confused-pairs")
def confused_pairs(evaluation: Evaluation) -> Section | None:
    """The pairs of classes that are confused most often, with images."""
    found = confusions(evaluation.model.scores, evaluation.model.labels)
    if not found:
        return None
    body = Markup('<ul class="pairs">\n{}\n</ul>').format(
        Markup("\n").join(_pair(evaluation, one) for one in found[:_SHOWN_PAIRS])
    )
    lead = (
        "Images of one class that are predicted as another, as a share of all images of their "
        f"class with its 95 % interval. {_most('The most frequent', len(found), _SHOWN_PAIRS)}."
    )
    return Section("Confused pairs", body, 62, lead)


@sections.register("suspect-labels")
def suspect_labels(evaluation: Evaluation) -> Section:
    """Images whose label is probably wrong."""
    found = evaluation.analysis.suspects
    names = evaluation.classes
    if not found:
        text = "No label is suspect."
        return Section("Suspect labels", absent(text), 64)
    body = gallery(
        evaluation,
        (
            (
                one.image,
                f"labeled {names[one.label]}, {names[one.suggested]}?",
                f"margin {one.margin:.3f}",
            )
            for one in found[:SHOWN_SUSPECTS]
        ),
    )
    lead = (
        "Images that confident learning assigns to another class than their label: the score of "
        "that class reaches its mean on images with that label. The margin is the score of the "
        "label minus that of the other class; the lower, the more suspect. A weak model suspects "
        "many correct labels, so look before you relabel. "
        f"{_most('The most suspect', len(found), SHOWN_SUSPECTS)}; suspect_labels.csv has all."
    )
    return Section("Suspect labels", body, 64, lead)


@sections.register("near-duplicates")
def near_duplicates(evaluation: Evaluation) -> Section | None:
    """Nearly the same image in two splits, or with two labels; None if not searched."""
    found, note = evaluation.duplicates, evaluation.notes.get("near-duplicates", "")
    if found is None:
        return Section("Near-duplicates", absent(note), 66) if note else None
    if not found:
        text = f"No image of the {evaluation.split} split has a near-duplicate in another split."
        return Section("Near-duplicates", absent(text), 66)
    body = Markup('<ul class="gallery">\n{}\n</ul>').format(
        Markup("\n").join(_duplicate(evaluation, one) for one in found[:_SHOWN_DUPLICATES])
    )
    lead = (
        "Pairs of nearly equal images, one of which is in this split, in two splits or with two "
        "labels. Figures on images that are also in the training split are too good. "
        f"{_most('The gravest', len(found), _SHOWN_DUPLICATES)}; near_duplicates.csv has all."
    )
    return Section("Near-duplicates", body, 66, lead)


def _most(what: str, count: int, shown: int) -> str:
    """`The most confident 36 of 412 are shown`; `All are shown` for few."""
    if count <= shown:
        return "All are shown"
    return f"{what} {shown} of {figures.count(count)} are shown"


def _pair(evaluation: Evaluation, one: Confusion) -> Markup:
    names = evaluation.classes
    text = f"{names[one.label]}, predicted {names[one.predicted]}"
    images = int((evaluation.model.labels == one.label).sum())
    share = (
        f"{len(one.images)} of {figures.count(images)} images, "
        f"{figures.percent(one.share.value)} ({figures.percent_interval(one.share.as_list())})"
    )
    shown = _strip(evaluation, one.images[:_SHOWN_OF_PAIR].tolist(), text)
    return Markup("<li><b>{} <span>→</span> {}</b><span>{}</span>{}</li>").format(
        names[one.label], names[one.predicted], share, shown
    )


def _strip(evaluation: Evaluation, positions: Iterable[int], text: str) -> Markup:
    """Small thumbnails in a row; images without one are left out."""
    items = []
    for position in positions:
        image_id = str(evaluation.model.ids[position])
        name = evaluation.files.get(image_id, "") or image_id[:12]
        source = evaluation.thumbnails.source(image_id)
        if source:
            tip = f"{name}: {text}, score {evaluation.model.scores[position].max():.3f}"
            items.append(Markup('<img src="{}" alt="{}" title="{}">').format(source, tip, tip))
    return Markup('<span class="strip">{}</span>').format(Markup("").join(items))


def _duplicate(evaluation: Evaluation, one: Anomaly) -> Markup:
    places: Sequence[Location] = [part for part in (one.location, one.other) if part is not None]
    shots = [_shot(evaluation.others, place) for place in places]
    return Markup('<li class="pair"><div class="shots">{}</div><p>{}, {}</p></li>').format(
        Markup("").join(shots), KINDS[one.kind][1], one.detail
    )


def _shot(images: Thumbnails, place: Location) -> Markup:
    source = images.source(str(place))
    shown = (
        Markup('<img src="{}" alt="{}" loading="lazy">').format(source, place.label)
        if source
        else Markup('<span class="blank">{}</span>').format(images.reason(str(place)))
    )
    return Markup("<figure>{}<figcaption><b>{}, {}</b>{}</figcaption></figure>").format(
        shown, place.label or "no label", place.split, breakable(place.filename or str(place))
    )
