"""The layers of a SegNet as a table, and what follows from it without torch."""

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
        """Exact: the first pixel of a cell, followed back to what it sees; indices see no further than what they place."""
        reach, low = self.kernel // 2, -(self.head // 2)
        for stage in reversed(self.decoder):
            low = (low - reach * len(stage)) // 2
        for stage in reversed(self.encoder):
            low = 2 * low - reach * len(stage)
        return -low

    def narrowed(self, share: int) -> SegNetLayers:
        """The same layers with a share of the feature maps, for studies.

        Args:
            share: what the numbers of feature maps are divided by.
        """
        encoder, decoder = (tuple(tuple(width // share for width in stage) for stage in part) for part in (self.encoder, self.decoder))
        return replace(self, encoder=encoder, decoder=decoder)
