"""The page of `sightline evaluate --out`: one model's figures on one split, as HTML.

Each section of the page is a file in `sections/`, or a plugin's.
"""
