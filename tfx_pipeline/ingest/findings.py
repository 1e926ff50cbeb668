"""Findings of ingest about single files: notes, repairs and rejections, by kind."""

from dataclasses import dataclass

NOTE, REPAIR, REJECTION = "note", "repair", "rejection"

#: Kind -> (level, meaning). A note changes nothing; a repair changes or drops a part of an image's
#: record; a rejection drops the whole image, or a label without an image.
KINDS: dict[str, tuple[str, str]] = {
    # Images.
    "name_differs": (NOTE, "the format of the content does not match the file name"),
    "grayscale": (NOTE, "one channel, kept; the graph repeats it three times"),
    "cmyk": (NOTE, "CMYK or YCCK JPEG, kept; the graph converts it to RGB"),
    "sixteen_bits": (NOTE, "16 bits per channel; the graph keeps the high byte"),
    "animated": (NOTE, "several frames; the first one is used"),
    "alpha": (NOTE, "transparency, dropped without blending"),
    "exif_kept": (NOTE, "rotated by EXIF; kept as stored, which is what TensorFlow decodes"),
    "duplicate_kept": (NOTE, "the same bytes as another image; both are kept for this source"),
    "exif_applied": (REPAIR, "rotated upright by EXIF and stored as PNG"),
    "transcoded": (REPAIR, "a format that the graph does not decode, stored as PNG"),
    "undecodable": (REJECTION, "the bytes cannot be decoded as an image"),
    "too_large": (REJECTION, "more pixels than the limit, by its header"),
    "unreadable": (REJECTION, "the file could not be read"),
    "duplicate": (REJECTION, "the same bytes as another image, which is kept"),
    "conflict": (REJECTION, "the same bytes as another image with a different label; none is kept"),
    "listed_twice": (NOTE, "listed twice with the same label, counted once"),
    "split_empty": (
        NOTE,
        "the folder of a split is empty; the split is drawn from the training images",
    ),
    "maybe_transposed": (NOTE, "EMNIST's files exchange rows and columns; kept as they are"),
    # Labels of images.
    "label_missing": (REJECTION, "an image without a label"),
    "label_unknown": (REJECTION, "a label that is not among the classes"),
    "image_missing": (REJECTION, "a label for an image that does not exist"),
    "size_differs": (REJECTION, "the annotations are for a different size of this image"),
    "orientation_unclear": (
        REJECTION,
        "rotated by EXIF, and it is unknown whether its labels are for the stored or displayed "
        "image",
    ),
    "objects_lost": (
        REJECTION,
        "every object had to be dropped, so the image is not a true negative",
    ),
    "image_by_name": (
        NOTE,
        "found by its file name alone; the folder is a path of another machine",
    ),
    "spelling_differs": (
        NOTE,
        "found under a different spelling of its name, or a path of another machine",
    ),
    "class_left_out": (NOTE, "an object of a class that was not selected"),
    # Objects: the image stays.
    "no_objects": (NOTE, "an image without objects, kept as a negative"),
    "object_repeated": (REPAIR, "an object that is listed twice, counted once"),
    "box_clipped": (REPAIR, "a box that crosses the image's edge, clipped"),
    "box_outside": (REPAIR, "a box outside of the image, dropped"),
    "box_empty": (REPAIR, "a box without area, dropped"),
    "box_invalid": (REPAIR, "a box with a negative side or an invalid number, dropped"),
    "mask_size": (REPAIR, "a mask with a different size than its image, dropped with its object"),
    "mask_invalid": (REPAIR, "a mask that cannot be read, dropped with its object"),
    "category_unknown": (REPAIR, "an object of a category that does not exist, dropped"),
    "annotation_invalid": (REPAIR, "an annotation that lacks a field or cannot be read, dropped"),
}


#: Kinds whose findings are each one dropped object.
OBJECT_LOSSES = (
    *("box_outside", "box_empty", "box_invalid", "mask_size", "mask_invalid"),
    *("category_unknown", "annotation_invalid"),
)


@dataclass(frozen=True)
class IngestFinding:
    """A finding about one file.

    Attributes:
      kind: a key of `KINDS`.
      file: the image's name in the source.
      detail: specifics, with the value.
    """

    kind: str
    file: str
    detail: str = ""

    @property
    def level(self) -> str:
        """`note`, `repair` or `rejection`."""
        return KINDS[self.kind][0]
