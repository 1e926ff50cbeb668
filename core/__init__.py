"""What every other package builds on: the standard library only, nothing of ours."""
