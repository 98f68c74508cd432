"""Reports: every video and metric has a row, and no stand-in passes for the paper's metric."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motion_app.benchmark.scenes import BenchmarkCase, tuning_cases
from motion_app.errors import GenerationCancelled, RequestError
from motion_app.evaluation.catalogue import METRICS, default_ids
from motion_app.evaluation.features import VideoFeatures
from motion_app.evaluation.figures import flow_figure, over_time_figure, tracks_picture
from motion_app.evaluation.metrics import mask_iou
from motion_app.evaluation.networks import CoTracker, Judges, RaftFlow, WeightStore
from motion_app.evaluation.released_fidelity import trajectory_fidelity_released
from motion_app.evaluation.report import (
    Report,
    Row,
    Source,
    catalogue_id,
    distinct_names,
    paper_tables,
)
from motion_app.evaluation.scoring import Scores, distinctly_named, score_videos
from motion_app.evaluation.trackers import (
    FlowPair,
    PointTracks,
    box_points,
    carried_masks,
    dis_flow,
    flow_tracks,
    grid_points,
    half_warp,
    moving_region,
)
from motion_app.evaluation.videos import (
    EvaluationItem,
    JudgedObject,
    OpenedItem,
    ReferenceClip,
    item_of_result,
    pair_uploads,
    row_labels,
)
from motion_app.library.library import Library
from motion_app.media.files import write_video
from motion_app.models.checkpoint import Checkpoint
from motion_app.request.written import request_to_json
from motion_app.settings import ROOT
from motion_app.world.world import render_reference

LIBRARY = Library([ROOT / "checkpoints" / "pocket" / "motions"])
NOWHERE = WeightStore(Path("/nowhere"), caches=False)


def asked(case: BenchmarkCase) -> dict[str, Any]:
    return request_to_json(case.request(case.chosen(LIBRARY.list())))


def kept_frames(
    folder: Path, case: BenchmarkCase, frames: np.ndarray, method: str
) -> EvaluationItem:
    """A result on disk as the app keeps it: lossless frames and the recipe."""
    folder.mkdir()
    recipe = {
        "request": {**asked(case), "method": method},
        "base": "pocket",
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    np.savez_compressed(folder / "frames.npz", frames=frames, fps=np.float32(8))
    names = {"video": "video.mp4", "recipe": "recipe.json", "frames": "frames.npz"}
    return item_of_result(folder, name=folder.name, **names)


def scored(items: list[EvaluationItem], metrics: list[str] | None = None) -> Scores:
    ids = default_ids(NOWHERE) if metrics is None else metrics
    return score_videos(items, ids, judges=Judges(NOWHERE), library=LIBRARY)


@pytest.fixture(scope="module")
def case() -> BenchmarkCase:
    names = [motion.name for motion in LIBRARY.list()]
    geometry = Checkpoint.read(ROOT / "checkpoints" / "pocket").geometry
    return tuning_cases(names, {2: 1}, geometry=geometry)[0]


@pytest.fixture(scope="module")
def scores(case: BenchmarkCase, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """The renderer's own video, its first frame held still, and a video that is not there."""
    folder = tmp_path_factory.mktemp("results")
    frames = case.rendered.frames
    still = frames[:1].repeat(len(frames), axis=0)
    items = [
        kept_frames(folder / "true", case, frames, "fleximmt"),
        kept_frames(folder / "still", case, still, "none"),
        EvaluationItem("gone", "none", folder / "gone.mp4"),
    ]
    return scored(items, [*default_ids(NOWHERE), "FF", "AC"])


def value(report: Report, item: str, metric: str) -> float:
    return report.cell(item, metric).value


def test_the_renderers_own_video_moves_like_its_references_and_a_still_one_does_not(
    scores: Scores,
) -> None:
    report = scores.report
    assert value(report, "true", "own_motion[colour]") > 0.6
    assert value(report, "true", "follows_own[colour]") == 1
    assert value(report, "true", "TF[dis]") > 0.6
    for metric in ("own_motion[colour]", "follows_own[colour]", "TF[dis]", "flow_score[dis]"):
        assert value(report, "still", metric) == 0
    assert value(report, "true", "FF[dis]") > value(report, "still", "FF[dis]") + 0.2
    assert value(report, "still", "temporal_flickering") == 1


def test_a_missing_video_is_listed_with_its_reason_and_has_no_value(scores: Scores) -> None:
    report = scores.report
    rows = [row for row in report.rows if row.item == "gone"]
    assert len(rows) == len(report.metrics)
    assert all(row.value is None and "gone.mp4" in row.status for row in rows)
    assert any(note.startswith("Not scored: gone") for note in report.footnotes())


def test_without_weights_a_papers_metric_says_what_it_needs_and_gets_no_number(
    scores: Scores,
) -> None:
    for metric, needs in (("FF", "RAFT of torchvision"), ("AC", "CLIP ViT-B/32")):
        row = scores.report.cell("true", metric)
        assert row.value is None and row.status == f"not measured: needs {needs}"
    assert not {"FF", "AC"} & set(scores.report.measured_metrics)


def test_no_stand_in_has_the_id_of_what_it_stands_in_for() -> None:
    for metric in METRICS.values():
        if metric.stand_in_for:
            assert metric.stand_in_for in METRICS and not METRICS[metric.stand_in_for].stand_in_for
            assert not metric.paper and metric.weights_id == "none"


def test_a_paper_s_metric_has_the_plain_id_unless_ours_is_another_than_its_release_s() -> None:
    for metric in METRICS.values():
        if f"{metric.id}[released]" in METRICS:  # our own reading, beside the release's formula
            assert not metric.paper
        elif metric.id.endswith("[released]"):
            assert metric.paper == "FlexiMMT"
        else:
            assert bool(metric.paper) == ("[" not in metric.id)


def test_every_column_of_the_papers_is_a_metric_of_the_papers() -> None:
    for table in paper_tables():
        metrics = [METRICS[catalogue_id(column)] for column in table.columns]
        assert {metric.paper for metric in metrics} <= {"FlexiMMT", "SynMotion"}
        assert all(len(cells) == len(table.columns) for cells in table.values.values())
    flexi = paper_tables()[0]
    assert dict(zip(flexi.columns, flexi.values["FlexiMMT"], strict=True))["FF"] == 0.723


class FollowedByFlow:
    """What CoTracker and RAFT are asked, answered by DIS."""

    def track(self, frames: np.ndarray, points: np.ndarray) -> PointTracks:
        return flow_tracks(dis_flow(frames), points)

    def flow(self, frames: np.ndarray) -> FlowPair:
        return dis_flow(frames)


def test_the_released_fidelities_are_measured_as_the_release_does(case: BenchmarkCase) -> None:
    """On a grid over the object's box, with the reference stretched to the video's size."""
    frames, mask = case.rendered.frames, case.rendered.masks[0, 0]
    judges = Judges(NOWHERE)
    judges._loaded = dict.fromkeys((CoTracker, RaftFlow), FollowedByFlow())

    def values(reference: np.ndarray, where: np.ndarray) -> list[float]:
        thing = JudgedObject("x", "", mask, ReferenceClip("r", reference, where))
        item = EvaluationItem("v", "m", Path("v"))
        opened = OpenedItem(item, frames, 8.0, "lossless frames", objects=(thing,))
        video = VideoFeatures(opened, judges)
        return [METRICS[f"{name}[released]"].measure(video)[0] for name in ("TF", "FF")]

    same = values(frames, mask)
    tracks = flow_tracks(dis_flow(frames), box_points(mask)).points
    assert same[0] == pytest.approx(trajectory_fidelity_released(tracks, tracks), abs=1e-5)
    assert same[1] == pytest.approx(1, abs=1e-4)
    turned = values(frames[::-1].copy(), case.rendered.masks[0, -1])
    assert turned[0] < same[0] and turned[1] < same[1]
    wide = np.stack([cv2.resize(frame, (192, 64)) for frame in frames])
    assert values(wide, mask.repeat(2, axis=1)) == pytest.approx(same, abs=0.15)


def test_where_pixels_came_from_is_said(
    scores: Scores, case: BenchmarkCase, tmp_path: Path
) -> None:
    assert "Scored from lossless frames: true, still." in scores.report.footnotes()
    video = tmp_path / "upload.mp4"
    write_video(video, case.rendered.frames, 8.0, comment="")
    (item,) = pair_uploads([video], [], read_recipe=lambda path: None)
    report = scored([item], ["temporal_flickering", "TF[dis]"]).report
    assert report.sources[0].source == "video file, compressed as it came"
    assert "needs to know the objects" in report.cell("upload", "TF[dis]").status


def test_an_upscaled_upload_is_scored_like_the_frames_it_was_made_from(
    scores: Scores, case: BenchmarkCase, tmp_path: Path
) -> None:
    video = tmp_path / "large.mp4"
    write_video(video, case.rendered.frames, 8.0, size=(576, 384), comment="")
    recipe = {
        "request": asked(case),
        "base": "pocket",
    }
    (item,) = pair_uploads([video], [], read_recipe=lambda path: recipe)
    report = scored([item], ["own_motion[colour]", "FF[dis]"]).report
    for metric in ("own_motion[colour]", "FF[dis]"):
        assert np.isclose(value(report, "large", metric), value(scores.report, "true", metric),
                          atol=0.1)  # fmt: skip


def table(values: dict[str, list[float | None]]) -> Report:
    """A report of one metric: values of the videos of each method."""
    rows, sources = [], []
    for method, numbers in values.items():
        for k, number in enumerate(numbers):
            status = "measured" if number is not None else "not measured: broken"
            rows.append(Row(f"{method}{k}", method, "FF[dis]", "dis", "none", number, status,
                            stand_in_for="FF", better="up"))  # fmt: skip
            sources.append(Source(f"{method}{k}", method, "lossless frames"))
    return Report(tuple(rows), tuple(sources))


def test_averages_leave_out_what_has_no_value_and_hold_their_interval() -> None:
    report = table({"ours": [0.2, 0.4, None], "theirs": [0.5], "nobody": [None]})
    ours = report.average("ours", "FF[dis]")
    assert np.isclose(ours.mean, 0.3) and ours.count == 2
    assert ours.interval[0] <= ours.mean <= ours.interval[1]
    assert report.average("theirs", "FF[dis]").interval is None
    assert report.average("nobody", "FF[dis]") is None
    assert report.method_cells()[2] == ["nobody", "–"]


def test_csv_has_every_row_and_no_cell_a_spreadsheet_would_run() -> None:
    report = table({"=1+1": [0.123456789], "b": [None]})
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["value"] for row in rows] == ["0.123456789", ""]
    assert rows[0]["method"] == "'=1+1"


def test_latex_and_markdown_mark_stand_ins_and_escape_names() -> None:
    report = table({"a_b & c": [0.5, 0.7]})
    latex = report.to_latex()
    assert r"a\_b \& c" in latex and r"FF[dis] $\uparrow$ *" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    markdown = table({"a|b": [0.5]}).to_markdown()
    assert r"a\|b" in markdown and "FF[dis] ↑ *" in markdown and "FF[dis] (not FF)" in markdown
    assert "| FlexiMMT | 0.904 |" in markdown


def test_files_are_paired_by_name_and_the_rest_belongs_to_all(tmp_path: Path) -> None:
    for name in ("cat.mp4", "dog.mp4", "cat.1.mp4", "cat.2.mp4", "shared.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "dog.json").write_text('{"image": "x"}')
    videos = [tmp_path / "cat.mp4", tmp_path / "dog.mp4"]
    extras = [tmp_path / n for n in ("cat.2.mp4", "shared.mp4", "dog.json", "cat.1.mp4")]
    cat, dog = pair_uploads(
        videos, extras, read_recipe=lambda path: None, methods={"cat.mp4": "ours"}
    )
    assert [path.name for path in cat.references] == ["cat.1.mp4", "cat.2.mp4"]
    assert cat.request is None and cat.method == "ours" and dog.method == "uploaded"
    assert dog.request == {"image": "x"} and [p.name for p in dog.references] == ["shared.mp4"]
    left = [tmp_path / n for n in ("._cat.mp4", "Thumbs.db", "._cat.json", ".DS_Store")]
    found = pair_uploads([*videos, *left[:2]], [*extras, *left], read_recipe=lambda path: None)
    assert [item.name for item in found] == ["cat", "dog"]
    assert [path.name for path in found[1].references] == ["shared.mp4"]
    (tmp_path / "dog.json").write_bytes(b'\xef\xbb\xbf{"image": "x"}')
    assert pair_uploads(videos, extras, read_recipe=lambda path: None)[1].request == {"image": "x"}
    with pytest.raises(RequestError, match="at most 20"):
        pair_uploads(videos * 11, [], read_recipe=lambda path: None)


def namesakes(folder: Path, *contents: bytes, name: str = "output.mp4") -> list[Path]:
    """Uploads of one file name, each in a folder of its own as gradio lays them."""
    files = []
    for k, content in enumerate(contents):
        (folder / str(k)).mkdir(exist_ok=True)
        files.append(folder / str(k) / name)
        files[-1].write_bytes(content)
    return files


def test_two_videos_of_one_name_are_two_rows_each_by_its_own_method(
    case: BenchmarkCase, tmp_path: Path
) -> None:
    videos = namesakes(tmp_path, b"", b"")
    frames = case.rendered.frames
    write_video(videos[0], frames, 8.0, comment="")
    write_video(videos[1], frames[:1].repeat(len(frames), axis=0), 8.0, comment="")
    (request,) = namesakes(
        tmp_path,
        json.dumps(asked(case)).encode(),
        name="output.json",
    )
    labels = row_labels(videos)
    assert labels == ["output.mp4", "output.mp4 (2)"]
    items = pair_uploads(
        videos,
        [request],
        read_recipe=lambda path: None,
        methods=dict(zip(labels, ("ours", "theirs"), strict=True)),
    )
    assert [item.method for item in items] == ["ours", "theirs"]
    assert all(item.request is not None for item in items)  # it is named as both of them
    report = scored(items, ["own_motion[colour]"]).report
    assert [row[:2] for row in report.item_cells()] == [
        ["output", "ours"],
        ["output (2)", "theirs"],
    ]
    assert report.methods == ("ours", "theirs")
    ours, theirs = (report.average(m, "own_motion[colour]") for m in report.methods)
    assert ours.count == theirs.count == 1 and ours.mean > theirs.mean
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [(line["item"], line["method"]) for line in lines] == [
        ("output", "ours"), ("output (2)", "theirs")]  # fmt: skip


def test_two_requests_for_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    videos = namesakes(tmp_path, b"", b"")
    requests = namesakes(tmp_path, b"{}", b"{}", name="output.json")
    with pytest.raises(RequestError, match="2 requests"):
        pair_uploads(videos, requests, read_recipe=lambda path: None)


def test_names_are_made_distinct_whatever_they_are() -> None:
    names = ["a", "a", "a (2)", "a"]
    assert distinct_names(names, taken=["b"]) == ["a", "a (2)", "a (2) (2)", "a (3)"]
    items = distinctly_named([EvaluationItem("all videos", "m", Path("x.mp4"))])
    assert items[0].name != "all videos"  # the item of a set's own row


def test_a_request_that_names_paths_on_the_server_is_refused(
    tmp_path: Path, case: BenchmarkCase
) -> None:
    video = tmp_path / "a.mp4"
    write_video(video, case.rendered.frames, 8.0, comment="")
    item = EvaluationItem("a", "m", video, request={"image": "/etc/hostname", "objects": []})
    report = scored([item], ["temporal_flickering"]).report
    assert "is the path /etc/hostname" in report.sources[0].problem


def test_two_videos_of_one_name_keep_their_own_rows(case: BenchmarkCase, tmp_path: Path) -> None:
    first, second = tmp_path / "x", tmp_path / "y"
    frames = case.rendered.frames
    items = [
        kept_frames(first, case, frames, "a"),
        kept_frames(second, case, frames[::-1], "a"),
    ]
    same = [EvaluationItem("v", "a", i.video, frames=i.frames) for i in items]
    report = scored(same, ["flow_score[dis]"]).report
    assert [row.item for row in report.rows] == ["v", "v (2)"]


def test_scoring_stops_where_it_is_told_to(case: BenchmarkCase, tmp_path: Path) -> None:
    item = kept_frames(tmp_path / "a", case, case.rendered.frames, "none")
    seen = []
    with pytest.raises(GenerationCancelled):
        score_videos(
            [item],
            default_ids(NOWHERE),
            judges=Judges(NOWHERE),
            library=LIBRARY,
            on_progress=lambda progress: seen.append(progress.metric) or len(seen) < 3,
        )
    assert seen == ["", "TF[dis]", "FF[dis]"]
    with pytest.raises(RequestError, match="unknown metrics nonsense"):
        scored([item], ["nonsense"])


def test_plots_show_each_object_its_reference_and_its_colours_over_time(scores: Scores) -> None:
    picture = scores.pictures[0]
    figure = flow_figure(picture)
    assert len(figure.data) == 2 * 2 * 2  # objects, speed and direction, own and reference
    assert json.loads(figure.to_json())["data"][0]["type"] == "bar"
    assert len(over_time_figure([picture]).data) == 2
    drawn = tracks_picture(picture)
    assert drawn.shape == (288, 432 + 8 + 210, 3)  # the video, and two references half as high


def test_dis_finds_the_way_of_a_rendered_creature_and_carries_its_mask() -> None:
    clip = render_reference("circle").rendered
    flow, masks = dis_flow(clip.frames), clip.masks[0]
    tracks = flow_tracks(flow, grid_points(masks[0]))
    found = np.median(tracks.points[tracks.visible[:, -1]], axis=0)
    truth = clip.tracks[0]
    assert np.linalg.norm((found - found[0]) - (truth - truth[0]), axis=1).max() < 2.0
    carried = carried_masks(masks[0], flow)
    assert min(mask_iou(a, b) for a, b in zip(carried, masks, strict=True)) > 0.8
    assert mask_iou(moving_region(clip.frames), masks[0]) > 0.5
    assert not moving_region(clip.frames[:1].repeat(3, axis=0)).any()


def test_half_warping_beats_leaving_out_the_motion() -> None:
    frames = render_reference("walk right").rendered.frames
    made, real = half_warp(frames).astype(int), frames[1:-1:2].astype(int)
    assert np.abs(made - real).mean() < 0.7 * np.abs(frames[:-2:2].astype(int) - real).mean()
