"""What an evaluation looks like: distributions of flow, values over time, tracks drawn on frames.

Figures are plotly's, which the page draws without a network; tracks are a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from motion_app.evaluation.features import ObjectPicture, VideoPicture
from motion_app.evaluation.metrics import DIRECTION_BINS, MAGNITUDE_BINS
from motion_app.evaluation.trackers import PointTracks

# Okabe and Ito's colours, told apart by people who confuse red and green.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
REFERENCE_COLOUR = "#8a939b"
GRID_COLOUR = "rgba(128, 140, 150, 0.25)"
DRAWN_SIDE = 288  # pixels: the height of a drawn frame
GAP = 8  # pixels between drawn frames
DRAWN_TRACKS = 9  # of each object: more of them hide each other


@dataclass(frozen=True)
class PlotWords:
    """The words in the figures."""

    speed: str = "speed over its mean"
    direction: str = "direction, degrees"
    share: str = "share of pixels"
    frame: str = "frame"
    likeness: str = "likeness to frame 1"
    reference: str = "reference"
    embedding: str = "whole frame (CLIP)"


def flow_figure(picture: VideoPicture, words: PlotWords = PlotWords()) -> go.Figure | None:
    """Per object a row: how speeds and how directions are distributed over all its pixels and
    frames, as bars, and its reference's as a line. None where no flow was computed."""
    shown = [thing for thing in picture.objects if thing.histograms is not None]
    if not shown:
        return None
    # Room between rows for the titles, whatever their number.
    figure = make_subplots(
        len(shown), 2, vertical_spacing=0.5 / max(2, len(shown)) / 1.4, horizontal_spacing=0.12,
        subplot_titles=[t for thing in shown for t in (f"{thing.name}: {words.speed}",
                                                       words.direction)],
    )  # fmt: skip
    for row, thing in enumerate(shown, start=1):
        for column, (x, ours, theirs) in enumerate(_distributions(thing), start=1):
            place = {"row": row, "col": column}
            first = row == column == 1
            figure.add_bar(
                x=x, y=ours, marker_color=_colour(picture, thing), name=thing.name,
                showlegend=column == 1, **place,
            )  # fmt: skip
            if theirs is not None:
                line = {"color": REFERENCE_COLOUR, "width": 2.5, "shape": "hvh"}
                figure.add_scatter(
                    x=x, y=theirs, mode="lines", line=line, name=words.reference,
                    legendgroup="reference", showlegend=first, **place,
                )  # fmt: skip
        figure.update_yaxes(title_text=words.share, row=row, col=1)
    figure.update_xaxes(
        tickvals=[-180, -90, 0, 90, 180],
        ticktext=["←", "↑", "→", "↓", "←"],
        tickfont_size=16,
        col=2,
    )
    return _dressed(figure, 150 + 190 * len(shown), bargap=0.08)


def _distributions(
    thing: ObjectPicture,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Bin centres, shares, and the reference's shares, of speed and of direction."""
    own, other = thing.histograms, thing.reference_histograms
    speeds = (np.arange(MAGNITUDE_BINS) + 0.5) / MAGNITUDE_BINS * own.cap
    angles = (np.arange(DIRECTION_BINS) + 0.5) / DIRECTION_BINS * 360 - 180
    if other is None:
        return [(speeds, own.magnitude, None), (angles, own.direction, None)]
    return [(speeds, own.magnitude, other.magnitude), (angles, own.direction, other.direction)]


def _colour(picture: VideoPicture, thing: ObjectPicture) -> str:
    return COLOURS[picture.objects.index(thing) % len(COLOURS)]


def over_time_figure(
    pictures: Sequence[VideoPicture], words: PlotWords = PlotWords()
) -> go.Figure | None:
    """Likeness of each frame to the first, a line for each video and object, and for the whole
    frame's embedding where CLIP was there. None where there is nothing to draw."""
    figure = go.Figure()
    styles = ("solid", "dash", "dot", "dashdot")
    for k, picture in enumerate(pictures):
        for j, (name, values) in enumerate(picture.over_time.items()):
            what = words.embedding if name == "CLIP" else name
            figure.add_scatter(
                x=np.arange(2, len(values) + 2),
                y=values,
                mode="lines+markers",
                name=what if len(pictures) == 1 else f"{picture.item} · {what}",
                line={
                    "color": COLOURS[(j if len(pictures) == 1 else k) % len(COLOURS)],
                    "dash": styles[0 if len(pictures) == 1 else j % len(styles)],
                },
                marker={"size": 5},
            )
    if not figure.data:
        return None
    figure.update_xaxes(title_text=words.frame)
    figure.update_yaxes(title_text=words.likeness)
    return _dressed(figure, 340)


def _dressed(figure: go.Figure, height: int, **layout: object) -> go.Figure:
    """Quiet, and readable on a light and on a dark page alike; the legend is at the foot."""
    figure.update_layout(
        height=height,
        margin={"l": 56, "r": 16, "t": 36, "b": 88},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#7a8793", "size": 12},
        legend={"orientation": "h", "y": 0.01, "yanchor": "bottom", "yref": "container"},
        **layout,
    )  # fmt: skip
    figure.update_annotations(font_size=12)
    figure.update_xaxes(gridcolor=GRID_COLOUR, zeroline=False)
    figure.update_yaxes(gridcolor=GRID_COLOUR, zeroline=False, rangemode="tozero")
    return figure


def tracks_picture(picture: VideoPicture) -> np.ndarray | None:
    """(H, W, 3) uint8: the first frame with all objects' tracks in their colours, and right of it
    each reference's, one above the other. Paths begin at a dot; None where there are no objects to
    follow."""
    if not picture.objects:
        return None
    own = [(thing.tracks, _colour(picture, thing)) for thing in picture.objects]
    left = _draw(picture.objects[0].frame, own, DRAWN_SIDE)
    referred = [thing for thing in picture.objects if thing.reference_frame is not None]
    if not referred:
        return left
    side = (DRAWN_SIDE - GAP * (len(referred) - 1)) // len(referred)
    drawn = [
        _draw(thing.reference_frame, [(thing.reference_tracks, _colour(picture, thing))], side)
        for thing in referred
    ]
    width = max(panel.shape[1] for panel in drawn)
    sheet = np.full((DRAWN_SIDE, left.shape[1] + GAP + width, 3), 255, np.uint8)
    sheet[:, : left.shape[1]] = left
    for k, panel in enumerate(drawn):
        top = k * (side + GAP)
        sheet[top : top + side, -width : panel.shape[1] - width or None] = panel
    return sheet


def _draw(frame: np.ndarray, tracks: Sequence[tuple[PointTracks, str]], height: int) -> np.ndarray:
    """``frame`` at ``height`` pixels with the visible parts of the tracks on it, smooth lines."""
    scale = height / frame.shape[0]
    width = round(frame.shape[1] * scale)
    picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
    picture = np.ascontiguousarray(picture // 2 + 110)  # pale, so that the lines stand out
    shift = 4  # OpenCV's fixed point: 1/16 of a pixel
    for found, colour in tracks:
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        last = len(found.points) - 1
        for n in np.unique(np.linspace(0, last, DRAWN_TRACKS).round().astype(int)):
            path = (found.points[n][found.visible[n]][:, ::-1] + 0.5) * scale  # (x, y)
            line = np.round(path * 2**shift).astype(np.int32)
            cv2.polylines(picture, [line[:, None]], False, rgb, 2, cv2.LINE_AA, shift)
            start = tuple(int(value) for value in line[0])
            cv2.circle(picture, start, 3 << shift, rgb, -1, cv2.LINE_AA, shift)
            cv2.circle(picture, start, 3 << shift, (255, 255, 255), 1, cv2.LINE_AA, shift)
    return picture
