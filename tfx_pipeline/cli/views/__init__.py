"""What each command of `sightline` prints."""
