"""`sightline show`: a contact sheet of a data set's images with their annotations."""

import random
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image, ImageDraw

from components.data_validation.drawing import draw_record, font
from components.data_validation.record_checks import filename_of, label_text, labels_of
from core.files import writing
from core.image_header import ImageError
from trainers.data import features
from trainers.data.features import DatasetError, DatasetInfo
from trainers.data.records_check import shard_files

_GAP, _CAPTION, _TITLE = 16, 40, 46
_SIDE = {features.CLASSIFICATION: 200, features.DETECTION: 440}
_PAPER, _CARD, _INK, _SOFT = (246, 247, 249), (255, 255, 255), (20, 24, 31), (86, 96, 114)
_MAX_COUNT = 400


def contact_sheet(
    directory: Path, *, split: str = "test", count: int = 12, seed: int = 0, out: Path
) -> Path:
    """Draws randomly chosen images of one split on one PNG.

    The class is below each image. Detection records show named boxes, translucent masks, and crowds
    dashed and marked with `*`. The error replaces an image that cannot be decoded.

    Args:
      directory: folder of `dataset.json` and `Split-*`.
      split: `train`, `validation`, or `test`.
      count: number of images, in 1..400; the whole split where it has fewer.
      seed: of the random choice.
      out: the PNG to write; its folder is created where missing.

    Returns:
      `out`.

    Raises:
      DatasetError: the data set or split does not exist, or shards are missing.
      ValueError: `count` is out of range.
      OSError: the file cannot be written.
    """
    if not 1 <= count <= _MAX_COUNT:
        raise ValueError(f"`count` must be in 1..{_MAX_COUNT}, got {count}")
    info = DatasetInfo.load(Path(directory))
    chosen = list(_choose(shard_files(directory, split, info), info, split, count, seed=seed))
    side = _SIDE.get(info.task, max(_SIDE.values()))
    cells = [_cell(record, info, side) for record in chosen]
    total = info.splits[split].examples
    title = f"{info.name}, {split}: {len(cells)} of {total:,}, seed {seed}"
    sheet = _lay_out(cells, title, side)
    with writing(out) as file:
        sheet.save(file, "PNG")
    return out


def _choose(
    files: list[str], info: DatasetInfo, split: str, count: int, *, seed: int
) -> Iterator[bytes]:
    """Records at random positions without replacement, in stored order."""
    total = info.splits[split].examples
    positions = set(random.Random(seed).sample(range(total), min(count, total)))
    last = max(positions)
    try:
        for index, record in enumerate(tf.data.TFRecordDataset(files).as_numpy_iterator()):
            if index in positions:
                yield record
            if index >= last:
                return
    except tf.errors.OpError as error:
        raise DatasetError(
            f"the records of {split} cannot be read: {error.message}; `sightline validate` names "
            "the file and the record"
        ) from error


def _cell(record: bytes, info: DatasetInfo, side: int) -> Image.Image:
    """One image centered in a square, with its class and file name below."""
    cell = Image.new("RGB", (side, side + _CAPTION), _CARD)
    draw = ImageDraw.Draw(cell)
    label = name = ""
    try:
        example = tf.train.Example.FromString(record)
        feature = example.features.feature
        name = filename_of(feature)
        label = label_text(labels_of(feature, info), info)
        if info.task == features.DETECTION:
            label = label or "no objects"
        image = draw_record(example, info, side=side)
        at = (side - image.width) // 2, (side - image.height) // 2
        cell.paste(image, at)
    except (ImageError, DecodeError) as error:
        draw.rectangle((0, 0, side - 1, side - 1), fill=(236, 239, 243))
        for line, text in enumerate(_wrap(str(error) or "not a tf.Example", side - 20)[:8]):
            draw.text((10, 10 + 16 * line), text, fill=(179, 38, 30), font=font(12))
    draw.text((6, side + 4), _fit(label, side - 12, 13), fill=_INK, font=font(13))
    draw.text((6, side + 22), _fit(name, side - 12, 11), fill=_SOFT, font=font(11))
    return cell


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels in a 12-pixel font."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(12).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_fit(word, width, 12))
    return lines


def _fit(text: str, width: int, size: int) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` pixels."""
    face = font(size)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _lay_out(cells: list[Image.Image], title: str, side: int) -> Image.Image:
    """The cells in a grid slightly wider than high, below the title."""
    columns = min(len(cells), max(1, round((1.4 * len(cells)) ** 0.5)))
    rows = -(-len(cells) // columns)
    step_x, step_y = side + _GAP, side + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _TITLE + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 14), _fit(title, sheet.width - 2 * _GAP, 18), fill=_INK, font=font(18))
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(cell, (_GAP + column * step_x, _TITLE + row * step_y))
    return sheet
