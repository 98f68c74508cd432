"""Multi-object motion transfer: one picture, several things in it, a motion for each.

Data flow, in the order the files are read::

    upload → media → models.clicks → request → GenerationRequest → engine → GeneratedVideo
                                        ↑ library ← MotionTokens ← training

Symbols used in every shape comment (FlexiMMT, section 3, and CogVideoX's own configs):

    N  objects                     F  latent frames          h, w  token grid of one latent frame
    P  = h * w                     V  = F * P video tokens   L     text tokens
    M  motion tokens per layer     D  transformer width      T, H, W  frames and size in pixels
    B  batch                       C  channels               k     index of an object, from 0
"""

__version__ = "0.1.0"
