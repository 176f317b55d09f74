"""Packages of the BioImage Model Zoo: reading them, doing what they ask, writing them.

Owns: resource descriptions of the formats 0.4 and 0.5. May import: models and networks. Never touches: tiles and backends.
"""
