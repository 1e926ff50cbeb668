"""What ingest has to say about single files: noted, repaired or rejected, by kind."""

from dataclasses import dataclass

NOTE, REPAIR, REJECTION = "note", "repair", "rejection"

#: Kind -> (level, what it means). A note changes nothing; a repair changes or leaves out a part of
#: an image's record; a rejection leaves out the whole image, or a label that belongs to none.
KINDS: dict[str, tuple[str, str]] = {
    # Images.
    "name_differs": (NOTE, "the content is another format than the file's name says"),
    "grayscale": (NOTE, "one channel, kept; the graph makes three equal ones"),
    "cmyk": (NOTE, "CMYK or YCCK JPEG, kept; the graph turns it into RGB"),
    "sixteen_bits": (NOTE, "16 bits a channel; the graph keeps the high byte"),
    "animated": (NOTE, "several frames; the first is the image"),
    "alpha": (NOTE, "transparency, dropped without blending"),
    "exif_kept": (NOTE, "EXIF says turned; kept as stored, which is what TensorFlow decodes"),
    "duplicate_kept": (NOTE, "the same bytes as another image; this source keeps both"),
    "exif_applied": (REPAIR, "turned upright by EXIF and stored as PNG"),
    "transcoded": (REPAIR, "a format that the graph does not decode, stored as PNG"),
    "undecodable": (REJECTION, "no image can be had from the bytes"),
    "too_large": (REJECTION, "over the pixel budget, by its header"),
    "unreadable": (REJECTION, "the file could not be read"),
    "duplicate": (REJECTION, "the same bytes as another image, which is kept"),
    "conflict": (REJECTION, "the same bytes as another image with another label; none is kept"),
    "listed_twice": (NOTE, "listed twice with the same label, counted once"),
    "split_empty": (NOTE, "a folder of a split without a file; the split is drawn from training"),
    "maybe_transposed": (NOTE, "EMNIST's files exchange rows and columns; kept as they are"),
    # Labels of images.
    "label_missing": (REJECTION, "no label for the image"),
    "label_unknown": (REJECTION, "a label that is none of the classes"),
    "image_missing": (REJECTION, "a label for an image that is not there"),
    "size_differs": (REJECTION, "the annotations were made for another size of this image"),
    "orientation_unclear": (
        REJECTION,
        "turned by EXIF, and nothing says whether its labels are for the stored or the shown image",
    ),
    "objects_lost": (REJECTION, "every object had to be dropped: the image is no negative"),
    "image_by_name": (NOTE, "found by its file name alone; its folder is one of another machine"),
    "spelling_differs": (NOTE, "found under a name that is spelt otherwise, or on another machine"),
    "class_left_out": (NOTE, "an object of a class that was not asked for"),
    # Objects: the image stays.
    "no_objects": (NOTE, "an image without objects, kept as a negative"),
    "object_repeated": (REPAIR, "an object that is listed twice, counted once"),
    "box_clipped": (REPAIR, "a box past the image's edge, clipped"),
    "box_outside": (REPAIR, "a box wholly outside of the image, dropped"),
    "box_empty": (REPAIR, "a box without area, dropped"),
    "box_invalid": (REPAIR, "a box with a negative side or a value that is no number, dropped"),
    "mask_size": (REPAIR, "a mask of another size than its image, dropped with its object"),
    "mask_invalid": (REPAIR, "a mask that cannot be read, dropped with its object"),
    "category_unknown": (REPAIR, "an object of a category that does not exist, dropped"),
    "annotation_invalid": (REPAIR, "an annotation that lacks a field or cannot be read, dropped"),
}


#: Kinds of which each finding is an object that did not become part of a record.
OBJECT_LOSSES = (
    *("box_outside", "box_empty", "box_invalid", "mask_size", "mask_invalid"),
    *("category_unknown", "annotation_invalid"),
)


@dataclass(frozen=True)
class Finding:
    """One thing about one file.

    Attributes:
      kind: a key of `KINDS`.
      file: the image's name in the source.
      detail: what exactly, with the value.
    """

    kind: str
    file: str
    detail: str = ""

    @property
    def level(self) -> str:
        """`note`, `repair` or `rejection`."""
        return KINDS[self.kind][0]
