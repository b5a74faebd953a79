"""A sentence as the name of a model: an OpenAI-compatible server whose adapters are written when they are first asked for."""
