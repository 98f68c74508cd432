"""Every metric there is: what it is called, by what it is measured, what it needs, what it means.

A paper's metric measured as the paper does has its plain id; where our formula is another than that
of the authors' release, theirs is told apart by "[released]", and the papers' figures stand beside
it. A stand-in has an id of its own, with what it is measured by in brackets, and never shares a
column with the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np

from motion_app.errors import MotionAppError
from motion_app.evaluation import metrics as m
from motion_app.evaluation import networks as n
from motion_app.evaluation.features import COTRACKER, DIS, RAFT, VideoFeatures
from motion_app.evaluation.released_fidelity import (
    flow_fidelity_released,
    trajectory_fidelity_released,
)
from motion_app.evaluation.trackers import half_warp
from motion_app.evaluation.videos import JudgedObject, ReferenceClip

DYNAMIC_FPS = 8.0  # VBench samples about so many frames a second
Values = tuple[float, ...]  # one for the video, or one for each object that could be measured


@dataclass(frozen=True)
class Metric:
    """``id`` names its column; ``stand_in_for`` the paper's metric it may not be mistaken for.

    ``implementation``: by what; ``networks``: what it is measured with; ``better`` which way is
    good, "" where there is none; ``measure`` gives the video's value or one for each object;
    ``features`` instead, for metrics of whole sets of videos against the references.
    """

    id: str
    implementation: str
    paper: Literal["FlexiMMT", "SynMotion", ""]
    better: Literal["up", "down", ""]
    networks: tuple[type[n.Network], ...] = ()
    stand_in_for: str = ""
    needs: Literal["", "text", "image", "objects", "references"] = ""
    measure: Callable[[VideoFeatures], Values] | None = None
    features: Callable[[VideoFeatures, np.ndarray], np.ndarray] | None = None

    @property
    def weights_id(self) -> str:
        """The files it is measured with, or "none"."""
        return ", ".join(network.source.name for network in self.networks) or "none"


def _embedded(metric: Callable[[np.ndarray], float], name: str, video: VideoFeatures) -> Values:
    return (metric(getattr(video, name)),)


def _text(video: VideoFeatures) -> Values:
    return (m.text_similarity(video.clip_images, video.clip_text),)


def _judged(video: VideoFeatures) -> list[JudgedObject]:
    return [thing for thing in video.opened.objects if thing.reference is not None]


def _trajectories(kind: str, video: VideoFeatures) -> Values:
    values = []
    for thing in _judged(video):
        ours, theirs = video.tracks(kind, thing), video.tracks(kind, thing.reference)
        values.append(
            m.trajectory_fidelity(
                ours.points,
                theirs.points,
                visible=ours.visible,
                reference_visible=theirs.visible,
            )
        )
    return tuple(values)


def _flows(kind: str, video: VideoFeatures) -> Values:
    values = []
    for thing in _judged(video):
        clip = thing.reference
        values.append(
            m.flow_fidelity(
                video.flow(kind, video.frames).forward,
                video.masks(kind, thing)[:-1],
                video.flow(kind, clip.frames).forward,
                video.masks(kind, clip)[:-1],
            )
        )
    return tuple(values)


def _released_trajectories(video: VideoFeatures) -> Values:
    values = []
    for thing in _judged(video):
        ours, theirs = video.box_tracks(thing), video.box_tracks(thing.reference)
        points = theirs.points * _to_size(video, thing.reference)  # [m, T', 2] (y, x)
        values.append(trajectory_fidelity_released(ours.points, points))
    return tuple(values)


def _released_flows(video: VideoFeatures) -> Values:
    values = []
    for thing in _judged(video):
        clip = thing.reference
        flow = video.flow(RAFT, clip.frames).forward * _to_size(video, clip)[::-1]  # (x, y)
        values.append(
            flow_fidelity_released(
                video.flow(RAFT, video.frames).forward,
                video.masks(RAFT, thing)[:-1],
                flow.astype(np.float32),
                video.masks(RAFT, clip)[:-1],
            )
        )
    return tuple(values)


def _to_size(video: VideoFeatures, clip: ReferenceClip) -> np.ndarray:
    """Factors (y, x) [2] from the reference's pixels to the video's: the release stretches the
    reference to the video's size before it looks."""
    return np.divide(video.frames.shape[1:3], clip.frames.shape[1:3])


def _similarities(video: VideoFeatures) -> np.ndarray:
    """[objects, objects]: how alike object i's track is to the reference of object j."""
    things = _judged(video)
    tracks = [video.centroid_track(thing) for thing in things]
    references = [video.centroid_track(thing.reference) for thing in things]
    return np.array([[m.assignment_similarity(a, b) for b in references] for a in tracks])


def _own(video: VideoFeatures) -> Values:
    return tuple(np.diag(_similarities(video)).tolist())


def _others(alike: np.ndarray) -> np.ndarray:
    """The most similar other's similarity [objects], 0 where there is no other."""
    apart = np.where(np.eye(len(alike), dtype=bool), -np.inf, alike)
    return apart.max(axis=1) if len(alike) > 1 else np.zeros(len(alike))


def _other(video: VideoFeatures) -> Values:
    alike = _similarities(video)
    if len(alike) < 2:
        raise MotionAppError("needs two objects with references, which can be confused")
    return tuple(_others(alike).tolist())


def _follows(video: VideoFeatures) -> Values:
    alike = _similarities(video)
    pairs = zip(np.diag(alike), _others(alike), strict=True)
    return tuple(float(m.follows_own(own, other)) for own, other in pairs)


def _colours(video: VideoFeatures) -> Values:
    kept = [video.colours_over_time(thing) for thing in video.opened.objects]
    if any(np.isnan(values).all() for values in kept):
        raise MotionAppError("an object was lost in every frame after the first")
    return tuple(float(np.nanmean(values)) for values in kept)


def _flow_length(kind: str, video: VideoFeatures) -> Values:
    return (m.flow_score(video.flow(kind, video.frames).forward),)


def _dynamic(kind: str, video: VideoFeatures) -> Values:
    step = max(1, round(video.opened.fps / DYNAMIC_FPS))
    sampled = video.frames if step == 1 else video.frames[::step]
    if len(sampled) < 2:
        raise MotionAppError("is too short: two frames at 8 a second are needed")
    return (float(m.is_dynamic(video.flow(kind, sampled).forward)),)


def _smooth_dis(video: VideoFeatures) -> Values:
    return (m.motion_smoothness(video.frames, half_warp(_three(video))),)


def _smooth_amt(video: VideoFeatures) -> Values:
    made = video.judges.network(n.Amt).middle_frames(_three(video))
    return (m.motion_smoothness(video.frames, made),)


def _three(video: VideoFeatures) -> np.ndarray:
    if len(video.frames) < 3:
        raise MotionAppError("is too short: three frames are needed")
    return video.frames


def _flicker(video: VideoFeatures) -> Values:
    return (m.temporal_flickering(video.frames),)


def _i2v(video: VideoFeatures) -> Values:
    return (m.i2v_subject(video.dino_images, video.dino_picture),)


def _rated(
    rater: type[n.FrameRater], metric: Callable[[np.ndarray], float], video: VideoFeatures
) -> Values:
    return (metric(video.judges.network(rater).scores(video.frames)),)


def _asked(template: str, video: VideoFeatures) -> Values:
    shares = []
    for thing in video.opened.objects:
        question = template.format(phrase=thing.phrase, subject=f"the {thing.name}")
        share = n.share_of_yes(video.judges.network(n.QwenJudge).ask(video.frames, question))
        if share is None:
            raise MotionAppError(f'the judge answered neither yes nor no to "{question}"')
        shares.append(share)
    return tuple(shares)


def _motion_asked(video: VideoFeatures) -> Values:
    return _asked(n.MOTION_QUESTION, video)


def _subject_asked(video: VideoFeatures) -> Values:
    return _asked(n.SUBJECT_QUESTION, video)


def _resnet(video: VideoFeatures, frames: np.ndarray) -> np.ndarray:
    return video.judges.network(n.Resnet3d).resnet_features(frames)


def _i3d(video: VideoFeatures, frames: np.ndarray) -> np.ndarray:
    return video.judges.network(n.I3d).i3d_features(frames)


def _clip(id: str, paper: str, metric: Callable[[np.ndarray], float]) -> Metric:
    measure = partial(_embedded, metric, "clip_images")
    return Metric(id, "clip-vit-b-32", paper, "up", (n.ClipEmbedder,), measure=measure)


def _entries() -> list[Metric]:
    return [*_weightless(), *_fleximmt(), *_synmotion()]


def _weightless() -> list[Metric]:
    """What this machine can measure as it is: stand-ins, measures of our own, and one of VBench's
    that needs no network."""
    up, refs = "up", "references"
    track, flow = partial(_trajectories, DIS), partial(_flows, DIS)
    length, dynamic = partial(_flow_length, DIS), partial(_dynamic, DIS)
    return [
        Metric("TF[dis]", "dis-tracks", "", up, (), "TF", refs, track),
        Metric("FF[dis]", "dis", "", up, (), "FF", refs, flow),
        Metric("own_motion[colour]", "colour-track", "", up, needs=refs, measure=_own),
        Metric("other_motion[colour]", "colour-track", "", "down", needs=refs, measure=_other),
        Metric("follows_own[colour]", "colour-track", "", up, needs=refs, measure=_follows),
        Metric("colour_constancy[dis]", "dis", "", up, needs="objects", measure=_colours),
        Metric("temporal_flickering", "exact", "SynMotion", up, measure=_flicker),
        Metric(
            *("motion_smoothness[dis]", "dis-half-warp", "", up),
            stand_in_for="motion_smoothness",
            measure=_smooth_dis,
        ),
        Metric("flow_score[dis]", "dis", "", "", (), "flow_score", measure=length),
        Metric("dynamic_degree[dis]", "dis", "", "", (), "dynamic_degree", measure=dynamic),
    ]


def _fleximmt() -> list[Metric]:
    """The five of FlexiMMT's table 1, by the networks of the paper and the formulas of its release,
    and our own reading of two of them by the same networks."""
    paper, up, refs = "FlexiMMT", "up", "references"
    tracks, flow = partial(_trajectories, COTRACKER), partial(_flows, RAFT)
    tracker, optical = (n.CoTracker,), (n.RaftFlow,)
    return [
        _clip("AC", paper, m.appearance_consistency),
        _clip("TC", paper, m.temporal_consistency),
        Metric("TS", "clip-vit-b-32", paper, up, (n.ClipEmbedder,), needs="text", measure=_text),
        Metric(
            *("TF[released]", "cotracker3", paper, up, tracker),
            needs=refs,
            measure=_released_trajectories,
        ),
        Metric(
            *("FF[released]", "raft_large", paper, up, optical),
            needs=refs,
            measure=_released_flows,
        ),
        Metric("TF", "cotracker3", "", up, tracker, needs=refs, measure=tracks),
        Metric("FF", "raft_large", "", up, optical, needs=refs, measure=flow),
    ]


def _synmotion() -> list[Metric]:
    """SynMotion's, most of them VBench's, by the networks of the papers."""
    paper, up = "SynMotion", "up"
    judge, clip, vit = (n.QwenJudge,), (n.ClipEmbedder,), (n.DinoEmbedder,)
    dino = partial(_embedded, m.subject_consistency, "dino_images")
    length, dynamic = partial(_flow_length, RAFT), partial(_dynamic, RAFT)
    aesthetic = partial(_rated, n.Aesthetic, m.aesthetic_quality)
    imaging = partial(_rated, n.Musiq, m.imaging_quality)
    asked = {"needs": "objects"}
    return [
        Metric("motion_accuracy", "qwen2.5-vl", paper, up, judge, measure=_motion_asked, **asked),
        Metric("subject_accuracy", "qwen2.5-vl", paper, up, judge, measure=_subject_asked, **asked),
        Metric("clip_text", "clip-vit-b-32", paper, up, clip, needs="text", measure=_text),
        _clip("adjacent_consistency", paper, m.adjacent_consistency),
        _clip("background_consistency", paper, m.subject_consistency),
        Metric("subject_consistency", "dino-vitb16", paper, up, vit, measure=dino),
        Metric("i2v_subject", "dino-vitb16", paper, up, vit, needs="image", measure=_i2v),
        Metric("motion_smoothness", "amt-s", paper, up, (n.Amt,), measure=_smooth_amt),
        Metric("flow_score", "raft_large", paper, "", (n.RaftFlow,), measure=length),
        Metric("dynamic_degree", "raft_large", paper, "", (n.RaftFlow,), measure=dynamic),
        Metric("aesthetic_quality", "laion-vit-l-14", paper, up, (n.Aesthetic,), measure=aesthetic),
        Metric("imaging_quality", "musiq-spaq", paper, up, (n.Musiq,), measure=imaging),
        Metric("fvd_3drn50", "resnet-50-k400", paper, "down", (n.Resnet3d,), features=_resnet),
        Metric("fvd_3dinception", "i3d-k400", paper, "down", (n.I3d,), features=_i3d),
    ]


METRICS = MappingProxyType({metric.id: metric for metric in _entries()})


def lacking(metric: Metric, video: VideoFeatures) -> str:
    """Why ``metric`` cannot be measured of this video whatever weights there are, or ""."""
    opened = video.opened
    if metric.needs == "text" and not opened.text:
        return "needs the caption: give the request or recipe"
    if metric.needs == "image" and opened.image is None:
        return "needs the input picture: give the request or recipe of a video that has one"
    if metric.needs in ("objects", "references") and not opened.objects:
        return "needs to know the objects: give the request or recipe, or a reference clip"
    if metric.needs == "references" and not _judged(video):
        reasons = dict.fromkeys(thing.problem for thing in opened.objects)
        return "no object has a reference: " + "; ".join(reasons)
    return ""


def default_ids(store: n.WeightStore) -> list[str]:
    """The metrics that can be measured on this machine."""
    return [metric.id for metric in METRICS.values() if not store.missing(metric.networks)]
