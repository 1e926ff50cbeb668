"""`sightline predict`: one table, from a server or from a bundle."""

from pathlib import Path

from rich.table import Table

from core.bundle import open_bundle
from serving.client import ClientError, connect, predict_local


def predictions_table(
    where: str, images: list[Path], *, model: str = "", variant: str = "", top: int = 3
) -> Table:
    """Image, best class, score, and the next ones.

    Raises:
      ClientError: no server there, no such model, or an image it cannot decode.
      BundleError: no such bundle or variant.
    """
    if "://" in where:
        if not model:
            raise ClientError("a server has many models: say which with --model")
        with connect(where) as client:
            found = client.predict(images, model=model, top_k=top)
    else:
        open_bundle(where)  # A mistyped folder is told before the images are read.
        for image in images:
            _check(image)
        found = predict_local(where, images, variant=variant or "saved_model", top_k=top)
    table = Table("picture", "class", "score", "then", box=None, pad_edge=False)
    for image, prediction in zip(images, found, strict=True):
        then = ", ".join(f"{label} {score:.3f}" for label, _, score in prediction.top[1:])
        table.add_row(image.name, prediction.label, f"{prediction.score:.3f}", then)
    return table


def _check(image: Path) -> None:
    """Names the image that the model's graph would refuse, where TensorFlow would not.

    Raises:
      ClientError: no such file, or not a JPEG, PNG, BMP or GIF.
    """
    from core.image_header import ImageError, check_image

    try:
        check_image(image.read_bytes())
    except (ImageError, OSError) as error:
        raise ClientError(f"{image}: {error}") from error
