"""What the models without a network share: grey values, samples of pixels, thresholds, minimum cuts.

Owns: arithmetic on raw pixels whose result does not depend on the cut. May import: models and statistics. Never touches: torch.
"""
