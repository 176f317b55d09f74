"""Training: from images with truth to a bundle."""

__all__: list[str] = []
