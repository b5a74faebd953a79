"""Networks: text encoders, the generator, and the predictor of fingerprints."""
