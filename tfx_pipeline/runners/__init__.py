"""Where a pipeline runs: on this machine, for now."""
