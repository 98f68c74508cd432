"""What the metrics of one video share, computed once and only when asked for: embeddings, flow,
masks, tracks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from motion_app.evaluation import networks as n
from motion_app.evaluation.metrics import FlowHistograms, appearance_over_time, flow_histograms
from motion_app.evaluation.trackers import (
    FlowPair,
    PointTracks,
    box_points,
    carried_masks,
    colour_histogram,
    colour_track,
    dis_flow,
    flow_tracks,
    grid_points,
)
from motion_app.evaluation.videos import JudgedObject, OpenedItem, ReferenceClip

DIS, RAFT, COTRACKER = "dis", "raft", "cotracker"


@dataclass(frozen=True, eq=False)
class ObjectPicture:
    """What the plots show of one object: its tracks on its first frame, how its flow is
    distributed, and the same of its reference. ``flow`` names the method."""

    name: str
    flow: str
    frame: np.ndarray
    tracks: PointTracks
    histograms: FlowHistograms | None
    reference_name: str = ""
    reference_frame: np.ndarray | None = None
    reference_tracks: PointTracks | None = None
    reference_histograms: FlowHistograms | None = None


@dataclass(frozen=True, eq=False)
class VideoPicture:
    """What the plots show of one video. ``over_time``: values [T - 1] of frames 2 to T, by name."""

    item: str
    method: str
    objects: tuple[ObjectPicture, ...]
    over_time: dict[str, np.ndarray]


class VideoFeatures:
    """Features of one opened video."""

    def __init__(self, opened: OpenedItem, judges: n.Judges) -> None:
        self.opened, self.judges = opened, judges
        # by method and the frames' identity; the frames are kept with it, so that it stays theirs
        self._flows: dict[tuple[str, int], tuple[np.ndarray, FlowPair]] = {}

    @property
    def frames(self) -> np.ndarray:
        return self.opened.frames

    @cached_property
    def clip_images(self) -> np.ndarray:
        return self.judges.network(n.ClipEmbedder).images(self.frames)

    @cached_property
    def clip_text(self) -> np.ndarray:
        return self.judges.network(n.ClipEmbedder).text(self.opened.text)

    @cached_property
    def dino_images(self) -> np.ndarray:
        return self.judges.network(n.DinoEmbedder).images(self.frames)

    @cached_property
    def dino_picture(self) -> np.ndarray:
        return self.judges.network(n.DinoEmbedder).images(self.opened.image[None])[0]

    def flow(self, kind: str, frames: np.ndarray) -> FlowPair:
        """Flow of the video's or a reference's ``frames`` by DIS or RAFT."""
        key = (kind, id(frames))
        if key not in self._flows:
            method = dis_flow if kind == DIS else self.judges.network(n.RaftFlow).flow
            self._flows[key] = frames, method(frames)
        return self._flows[key][1]

    def masks(self, kind: str, thing: JudgedObject | ReferenceClip) -> np.ndarray:
        """(T, H, W) bool: the first frame's mask carried along the flow."""
        return carried_masks(thing.mask, self.flow(kind, self._frames_of(thing)))

    def tracks(self, kind: str, thing: JudgedObject | ReferenceClip) -> PointTracks:
        """Points of a grid inside the first frame's mask, by ``kind`` DIS or COTRACKER."""
        points, frames = grid_points(thing.mask), self._frames_of(thing)
        if kind == COTRACKER:
            return self.judges.network(n.CoTracker).track(frames, points)
        return flow_tracks(self.flow(DIS, frames), points)

    def box_tracks(self, thing: JudgedObject | ReferenceClip) -> PointTracks:
        """Points that FlexiMMT's release chooses, by CoTracker."""
        points, frames = box_points(thing.mask), self._frames_of(thing)
        return self.judges.network(n.CoTracker).track(frames, points)

    def centroid_track(self, thing: JudgedObject | ReferenceClip) -> np.ndarray:
        """[T, 2] in pixels (y, x): the true one where it is known, else where its colour goes."""
        track = getattr(thing, "track", None)
        return colour_track(self._frames_of(thing), thing.mask) if track is None else track

    def colours_over_time(self, thing: JudgedObject) -> np.ndarray:
        """Bhattacharyya coefficient [T - 1] of the object's colours in each later frame with those
        in the first; NaN where its carried mask is empty."""
        masks = self.masks(DIS, thing)
        first = colour_histogram(self.frames[0], masks[0])
        return np.array(
            [
                np.sqrt(first * colour_histogram(frame, mask)).sum() if mask.any() else np.nan
                for frame, mask in zip(self.frames[1:], masks[1:], strict=True)
            ]
        )

    def _frames_of(self, thing: JudgedObject | ReferenceClip) -> np.ndarray:
        return thing.frames if isinstance(thing, ReferenceClip) else self.frames

    def picture(self) -> VideoPicture:
        """What there is to draw of what was computed so far; nothing new is computed but small
        things."""
        over_time: dict[str, np.ndarray] = {}
        if "clip_images" in self.__dict__:
            over_time["CLIP"] = appearance_over_time(self.clip_images)
        kinds = {kind for kind, _ in self._flows}
        objects = []
        if kinds:
            kind = RAFT if RAFT in kinds else DIS
            objects = [self._object_picture(kind, thing) for thing in self.opened.objects]
        if DIS in kinds:
            for thing in self.opened.objects:
                over_time[thing.name] = self.colours_over_time(thing)
        item = self.opened.item
        return VideoPicture(item.name, item.method, tuple(objects), over_time)

    def _object_picture(self, kind: str, thing: JudgedObject) -> ObjectPicture:
        clip = thing.reference
        things = [thing] if clip is None else [thing, clip]
        vectors = [self._vectors(kind, moved) for moved in things]
        caps = [flow_histograms(v).cap for v in vectors if v is not None]
        # Both over one range, with some room behind the fastest.
        spreads = [None if v is None else flow_histograms(v, cap=1.2 * max(caps)) for v in vectors]
        own = (thing.name, kind, self.frames[0], self._follow(kind, thing), spreads[0])
        if clip is None:
            return ObjectPicture(*own)
        return ObjectPicture(*own, clip.name, clip.frames[0], self._follow(kind, clip), spreads[1])

    def _follow(self, kind: str, thing: JudgedObject | ReferenceClip) -> PointTracks:
        return flow_tracks(self.flow(kind, self._frames_of(thing)), grid_points(thing.mask))

    def _vectors(self, kind: str, thing: JudgedObject | ReferenceClip) -> np.ndarray | None:
        """The flow [P, 2] of all its pixels in all frames; None where it stands still."""
        field = self.flow(kind, self._frames_of(thing)).forward
        vectors = field[self.masks(kind, thing)[:-1]]
        return vectors if vectors.any() else None
