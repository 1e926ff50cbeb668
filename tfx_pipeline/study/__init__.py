"""`sightline study`: the study that started the project, repeated within a wall-clock budget.

A CNN, a ResNet and a ViT are trained with several seeds, compressed and timed, and one report sets
each table of the study beside the figures measured here, with a verdict. `sets` has the recipes,
`budget` divides the time, `run` starts the child processes of `worker`, `results` reads what they
wrote, `tables` makes the tables and `verdicts` decides.
"""
