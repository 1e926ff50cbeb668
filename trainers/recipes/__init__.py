"""Recipes: functions that return a complete `Config`, mostly for a published result."""
