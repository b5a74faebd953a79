"""Scores of methods on tasks, and the statistics that compare them."""
