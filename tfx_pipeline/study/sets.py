"""The recipes of a study: one for each role, and the methods of the study's outlook."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.data.features import DatasetInfo
from trainers.recipes import load_recipe
from trainers.registry import nearest

#: The three models that the study compares.
CNN, RESNET, VIT = "cnn", "resnet", "vit"
CORE = (CNN, RESNET, VIT)
#: What its outlook proposes to train.
HYBRID, DISTILLED = "hybrid", "distilled"
ROLES = (*CORE, HYBRID, DISTILLED)
#: Final sparsities of pruning, the claimed one first.
SPARSITIES = (0.9, 0.8, 0.5)


class StudyError(ValueError):
    """A study that cannot be run as specified; the message contains the remedy."""


@dataclass(frozen=True)
class StudySet:
    """The recipes of a study.

    Attributes:
      name: of a set, or the recipes as the user gave them.
      recipes: role -> recipe, at least the three of `CORE`.
      is_original: whether the recipes are those of the study.
    """

    name: str
    recipes: dict[str, str]
    is_original: bool = False


SETS = {
    "cifar10": StudySet(
        "cifar10",
        {
            CNN: "cifar10_cnn",
            RESNET: "cifar10_resnet20",
            VIT: "cifar10_vit",
            HYBRID: "cifar10_hybrid",
            DISTILLED: "cifar10_vit_distilled",
        },
    ),
    "digits": StudySet(
        "digits",
        {CNN: "digits_cnn", RESNET: "digits_resnet", VIT: "digits_vit", DISTILLED: "digits_vit"},
    ),
    "imagenet": StudySet(
        "imagenet",
        {
            CNN: "cnn_imagenet_study",
            RESNET: "resnet50_imagenet_study",
            VIT: "vit_b16_imagenet_study",
            DISTILLED: "vit_b16_imagenet_study",
        },
        is_original=True,
    ),
}
_IMAGENET_CLASSES, _IMAGENET_TRAIN, _IMAGENET_TEST = 1000, 1_281_167, 50_000
_CIFAR10 = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


def is_imagenet(info: DatasetInfo) -> bool:
    """Whether the data are ImageNet-1k, the study's, by classes and numbers of images.

    A hundredth of the images may be missing, e.g. damaged or duplicate ones.
    """
    counts = {name: one.examples for name, one in info.splits.items()}
    trained = counts.get("train", 0) + counts.get("validation", 0)
    found = ((trained, _IMAGENET_TRAIN), (counts.get("test", 0), _IMAGENET_TEST))
    return len(info.classes) == _IMAGENET_CLASSES and all(
        0.99 * whole <= count <= whole for count, whole in found
    )


def set_of_classes(classes: Sequence[str]) -> str:
    """The name of the set whose data has these classes; empty for other classes."""
    if sorted(classes) == _CIFAR10:
        return "cifar10"
    if sorted(classes) == list("0123456789"):
        return "digits"
    return "imagenet" if len(classes) == _IMAGENET_CLASSES else ""


def choose(given: str, classes: Sequence[str]) -> StudySet:
    """The set that `--recipes` names, or else the one of the data's classes.

    Args:
      given: the name of a set, `ROLE=RECIPE,...`, or empty.
      classes: of the data.

    Raises:
      StudyError: no such set, role or recipe, or classes that decide no set.
    """
    name = given or set_of_classes(classes)
    if not name:
        shown = ", ".join(map(repr, classes[:3])) + (", ..." if len(classes) > 3 else "")
        raise StudyError(
            f"the {len(classes)} classes of the data ({shown}) are those of no recipe set; give "
            f"--recipes {'|'.join(SETS)} or --recipes cnn=RECIPE,resnet=RECIPE,vit=RECIPE "
            "(`sightline train --recipes` lists the recipes)"
        )
    if "=" in name:
        return _own(name)
    if name not in SETS:
        raise StudyError(
            f"--recipes {name!r}: no such set; {nearest(name, list(SETS))}. Or give recipes as "
            "cnn=RECIPE,resnet=RECIPE,vit=RECIPE"
        )
    return SETS[name]


def _own(given: str) -> StudySet:
    """The set of `ROLE=RECIPE,...`."""
    found: dict[str, str] = {}
    for part in given.split(","):
        role, _, recipe = (text.strip() for text in part.partition("="))
        if role not in ROLES:
            raise StudyError(f"--recipes {given!r}: no role {role!r}; {nearest(role, list(ROLES))}")
        if role in found:
            raise StudyError(f"--recipes {given!r} has two recipes for {role}; give one")
        load_recipe(recipe)  # Reports a mistyped name.
        found[role] = recipe
    if missing := [role for role in CORE if role not in found]:
        raise StudyError(
            f"--recipes {given!r} has no recipe for {', '.join(missing)}; a study compares "
            f"{', '.join(CORE)}"
        )
    return StudySet(given, found)
