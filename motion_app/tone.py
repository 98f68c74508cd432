"""Clips with a high dynamic range, as this app sees them: brought to sRGB.

Both curves of Rec. ITU-R BT.2100 are undone per channel, a reference white of 203 cd/m² (BT.2408)
becomes the white of a screen, BT.2020's primaries become BT.709's, and what is brighter than three
quarters of white is bent towards it instead of cut off. A sane picture, not a master's grading.
"""

from __future__ import annotations

from functools import cache

import numpy as np

PQ, HLG = 16, 18  # AVCOL_TRC_SMPTE2084 and AVCOL_TRC_ARIB_STD_B67 of FFmpeg
REFERENCE_WHITE, HLG_PEAK, HLG_GAMMA = 203.0, 1000.0, 1.2  # cd/m², cd/m², system gamma
KNEE = 0.75  # of white
BT2020_TO_BT709 = np.array(
    [
        [1.6605, -0.5876, -0.0728],
        [-0.1246, 1.1329, -0.0083],
        [-0.0182, -0.1006, 1.1187],
    ],
    np.float32,
)  # Rec. ITU-R BT.2087


@cache
def tone_curve(transfer: int) -> np.ndarray | None:
    """Light in units of white for the 256 codes of a clip with that transfer characteristic (its
    number in FFmpeg and H.273), (256,) float32; None for one that needs no change."""
    codes = np.arange(256) / 255
    if transfer == PQ:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = codes ** (1 / m2)
        nits = 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
        nits = HLG_PEAK * light**HLG_GAMMA
    else:
        return None
    return (nits / REFERENCE_WHITE).astype(np.float32)


def toned(pixels: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a clip with ``curve`` as (H, W, 3) uint8 sRGB."""
    light = np.maximum(curve[pixels] @ BT2020_TO_BT709.T, 0)
    over = 1 - np.exp(-np.maximum(light - KNEE, 0) / (1 - KNEE))
    light = np.where(light > KNEE, KNEE + (1 - KNEE) * over, light)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(np.clip(encoded, 0, 1) * 255).astype(np.uint8)
