"""The gates a model must pass before it ships, as plain functions; nothing here knows TFX.

settings   what a pipeline requires
verdicts   one gate's outcome: held, failed or not decided
columns    the predictions table: what each column is, and which float pass a variant belongs to
change     against the live model and the best one ever pushed: not worse by more than a margin
agreement  a variant against its own float pass, counted in images
collapse   constant answers, and variants that lost what their float pass knows
recommend  which variant to ship
judge      all of it: the verdict of one model

This file imports the standard library only, so that the command line can read the settings.
"""

from components.gates.settings import GateSettings
from components.gates.verdicts import Gate, Verdict

__all__ = ["Gate", "GateSettings", "Verdict"]
