"""Torch modules that are built here, their weights, and what is measured of them.

Owns: reading and recognising files of weights, stride and field found by trial. May import: base modules and storage.
Never touches: models. The modules that import torch are imported by name, where a network is built.
"""
