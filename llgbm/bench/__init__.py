"""Side-by-side benchmarks against reference ways of doing the same work."""
