"""The layers of a SegNet as a table, and the stride and field that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["SegNetLayers"]


@dataclass(frozen=True)
class SegNetLayers:
    """The convolutions of a SegNet.

    Attributes:
        encoder: feature maps of each convolution, stage by stage; a pooling follows each stage.
        decoder: likewise, deepest first; an unpooling precedes each stage.
        kernel: of all of them, pixels.
        head: kernel of the last convolution, pixels.
        is_rectified: whether the decoder has ReLUs.
        is_normalized: whether the input's channels are normalised by their neighbours (LRN).
    """

    encoder: tuple[tuple[int, ...], ...]
    decoder: tuple[tuple[int, ...], ...]
    kernel: int
    head: int
    is_rectified: bool
    is_normalized: bool

    @property
    def stride(self) -> int:
        """Two for each pooling."""
        return int(2 ** len(self.encoder))

    @property
    def field(self) -> int:
        """Exact radius in pixels: the first pixel of a cell, followed back to its inputs. Unpooling sees no further than pooling."""
        reach, low = self.kernel // 2, -(self.head // 2)
        for stage in reversed(self.decoder):
            low = (low - reach * len(stage)) // 2
        for stage in reversed(self.encoder):
            low = 2 * low - reach * len(stage)
        return -low

    def narrowed(self, share: int) -> SegNetLayers:
        """Return the same layers with fewer feature maps, for studies.

        Args:
            share: divisor of the numbers of feature maps.
        """
        encoder, decoder = (tuple(tuple(width // share for width in stage) for stage in half) for half in (self.encoder, self.decoder))
        return replace(self, encoder=encoder, decoder=decoder)
