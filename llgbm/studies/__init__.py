"""What drives many runs or many adapters: ablations, composition, embeddings compared."""
