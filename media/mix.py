"""Mixes channels to mono, by what they hold."""

import av
import numpy as np

# Channel weights of the mono mix (ITU-R BS.775). They are divided by their sum so that nothing clips; FFmpeg's mix of
# float samples does not.
MONO_MIX = {"FC": 1.0, "FL": 0.5**0.5, "FR": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0}
SURROUND = 0.5  # every other channel

EMPTY = 1e-4  # a channel of less than this part of the loudest one's power (40 dB below it) has no weight
OPPOSED = -0.3  # a channel whose correlation with the loudest one is less counts as reversed in phase


class MonoMix:
    """Weights of a track's channels in its mono mix.

    The weights are those of BS.775 where every channel holds sound. A channel without sound has none: a voice in one
    channel alone keeps its level. A channel whose phase is opposite to that of the loudest one is added reversed: the
    two do not cancel out. What a channel holds is measured over the whole track.
    """

    def __init__(self) -> None:
        # By the layout's name, as the layout may change midway: the layout, and the (C, C) sums of products.
        self._moments: dict[str, tuple[av.AudioLayout, np.ndarray]] = {}

    def measure(self, samples: np.ndarray, layout: av.AudioLayout) -> None:
        """Count `samples` (channels, n) float32."""
        samples = np.clip(np.nan_to_num(samples), -1, 1).astype(np.float64)
        # Not with @: BLAS sums in an order that depends on its number of threads.
        moments = np.einsum("cs,ds->cd", samples, samples)
        if layout.name in self._moments:
            moments += self._moments[layout.name][1]
        self._moments[layout.name] = layout, moments

    def weights(self, layout: av.AudioLayout, channels: int) -> np.ndarray:
        """(channels,) float32, whose absolute values have the sum 1."""
        usual = usual_weights(layout, channels)
        if layout.name not in self._moments:
            return usual
        moments = self._moments[layout.name][1]
        power = np.diag(moments)
        if not power.any():
            return usual
        if not (power * usual).any():  # sound in the bass channel alone
            return (power > 0).astype(np.float32) / np.float32((power > 0).sum())
        full = (usual > 0) & (power > EMPTY * power[usual > 0].max())
        loudest = int((full * usual**2 * power).argmax())
        opposed = full & (moments[loudest] < OPPOSED * np.sqrt(power * power[loudest]))
        if full[usual > 0].all() and not opposed.any():
            return usual
        weights = full * np.where(opposed, -usual, usual)
        return weights / np.abs(weights).sum()

    def is_usual(self) -> bool:
        """Whether all weights are those of BS.775."""
        return all(
            np.array_equal(self.weights(layout, len(moments)), usual_weights(layout, len(moments)))
            for layout, moments in self._moments.values()
        )


def usual_weights(layout: av.AudioLayout, channels: int) -> np.ndarray:
    """BS.775's weights (channels,) float32 with the sum 1."""
    weights = np.array([MONO_MIX.get(channel.name, SURROUND) for channel in layout.channels][:channels], np.float32)
    if len(weights) != channels or not weights.any():
        weights = np.ones(channels, np.float32)
    return weights / weights.sum()


def mix(samples: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(channels, n) -> (1, n)"""
    return np.einsum("c,cs->s", weights, samples)[None]
