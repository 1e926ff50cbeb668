"""Recipes: functions that return a complete `Config`, mostly for a published result."""

from trainers.config import Config, override
from trainers.config_rules import validate
from trainers.registry import recipes


def load_recipe(name: str, *overrides: str) -> Config:
    """The configuration of a registered recipe, with `section.key=value` assignments applied.

    Raises:
      UnknownNameError: no such recipe; names the nearest ones.
      ConfigError: an unknown key, a wrong type, or a value out of range.
    """
    return validate(override(recipes.get(name)(), overrides))
