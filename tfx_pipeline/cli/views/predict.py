"""`sightline predict`: a table of predictions from a server or a bundle."""

from pathlib import Path

from rich.table import Table

from core.bundle import open_bundle
from serving.client import ClientError, connect, predict_local


def predictions_table(
    where: str, images: list[Path], *, model: str = "", variant: str = "", top: int = 3
) -> Table:
    """One row per image: name, top class, its score, and the next classes.

    Raises:
      ClientError: the server is unreachable, the model is unknown, or an image cannot be decoded.
      BundleError: the bundle or variant does not exist.
    """
    if "://" in where:
        if not model:
            raise ClientError("a server may have many models; name one with --model")
        with connect(where) as client:
            found = client.predict(images, model=model, top_k=top)
    else:
        open_bundle(where)  # Reports a mistyped folder before images are read.
        for image in images:
            _check(image)
        found = predict_local(where, images, variant=variant or "saved_model", top_k=top)
    table = Table("image", "class", "score", "then", box=None, pad_edge=False)
    for image, prediction in zip(images, found, strict=True):
        then = ", ".join(f"{label} {score:.3f}" for label, _, score in prediction.top[1:])
        table.add_row(image.name, prediction.label, f"{prediction.score:.3f}", then)
    return table


def _check(image: Path) -> None:
    """Checks an image, since TensorFlow's own error does not name the file.

    Raises:
      ClientError: the file does not exist or is not a JPEG, PNG, BMP, or GIF.
    """
    from core.image_header import ImageError, check_image

    try:
        check_image(image.read_bytes())
    except (ImageError, OSError) as error:
        raise ClientError(f"{image}: {error}") from error
