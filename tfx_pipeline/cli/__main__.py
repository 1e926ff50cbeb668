"""`python -m tfx_pipeline.cli`."""

from tfx_pipeline.cli import main

main()
