"""Kinds of tasks: texts to generate, classes, spans."""
