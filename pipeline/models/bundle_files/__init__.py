"""Bundles on disk: a folder with ``model.yaml`` and ``weights.safetensors``.

Owns: the format, finding, reading and writing. May import: models and networks. Never touches: pixels.
"""
