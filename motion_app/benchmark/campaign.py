"""One run of the benchmark: what is asked for, what is missing, what is made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from motion_app.benchmark.exchange import ExternalMethod, read_published, write_inputs
from motion_app.benchmark.outcome import STILL, TRUTH, Outcome
from motion_app.benchmark.references import (
    BY_NOUN,
    LEARNED,
    LIBRARY,
    LOOKED_AT,
    LORAS,
    MARKED,
    PACKED,
    SCRATCH,
    UNMASKED,
    taught_by,
)
from motion_app.benchmark.scenes import BenchmarkCase, Movement, movements
from motion_app.benchmark.scores import SCORING, CaseScores, metric_ids
from motion_app.benchmark.tasks import (
    FeatureTask,
    LearnTask,
    ProbeTask,
    PropagationTask,
    ScoreTask,
    VideoTask,
    load_runner,
)
from motion_app.benchmark.variants import (
    FULL,
    MAIN,
    Roster,
    Suite,
    SuiteOptions,
    Variant,
    build_suites,
    choose_variants,
    files_for,
    lacking,
    lessons,
    motion_sets,
    usable_files,
)
from motion_app.engine.propagation import PropagationConfig
from motion_app.errors import RequestError
from motion_app.evaluation.networks import WeightStore
from motion_app.jobs.kinds import WorkerConfig
from motion_app.jobs.models import running_of
from motion_app.jobs.results import ResultStore, content_key, read_json
from motion_app.jobs.workers import Task, ThisProcess, Workers, run_task
from motion_app.library.library import Library
from motion_app.methods import LORA_METHODS, METHOD_TABLE, PACK_METHODS, REFINED
from motion_app.models.checkpoint import Checkpoint
from motion_app.models.devices import device_named
from motion_app.models.stock_files import StockFiles
from motion_app.scene import Motion
from motion_app.settings import Settings
from motion_app.text_files import file_digest, listed
from motion_app.world.creatures import MOTIONS, SHAPE_MOTIONS

MODEL_PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
# Sets that the benchmark learns for a method whose motion files are of its own, by the method.
TAUGHT = {REFINED: LOOKED_AT, **dict.fromkeys(LORA_METHODS, LORAS)}
CROWDED = {MARKED: "motions/marked", BY_NOUN: "motions/by-noun"}  # sets, and their folders
COMPUTING = 2  # goes up when one request gives another video, or one clip another motion
OnTask = Callable[[int, int, str], None]
Mapper = Workers | ThisProcess


@dataclass(frozen=True)
class Campaign:
    """What is asked for. ``settings``: how the model is run, and where the judges' weights are;
    ``device`` None is theirs. ``motions`` are library folders, ``unmasked`` one of the same motions
    learned without masks, ``reduced`` one for each reduced variant, in their order, ``data`` the
    authors' benchmark folder instead of rendered scenes. ``movements``: the names that rendered
    scenes draw from, () for all.
    ``steps`` of generation and ``training_steps`` of the motions learned here: None for the
    checkpoint's own; ``propagation_cases`` scenes for the study of RMPM. ``learn``: what methods
    need of the main scenes' motions and no library holds, SynMotion's packs and tokens learned
    without masks, is learned first."""

    model: str
    out: Path
    motions: tuple[Path, ...]
    settings: Settings
    options: SuiteOptions
    variants: tuple[Variant, ...] = choose_variants()
    unmasked: Path | None = None
    reduced: tuple[Path, ...] = ()
    movements: tuple[str, ...] = ()
    external: tuple[ExternalMethod, ...] = ()
    data: Path | None = None
    processes: int = 2
    device: str | None = None
    steps: int | None = None
    training_steps: int | None = None
    propagation_cases: int = 20
    learn: bool = False


def run_campaign(campaign: Campaign, on_task: OnTask | None = None) -> Outcome:
    """Do what is missing and gather everything. Killed and run again it ends with the same.

    ``on_task`` is told how many of how many pieces of work are done, and what was done last.
    """
    return _CampaignRun(campaign, on_task or (lambda done, total, what: None)).outcome()


class _CampaignRun:
    """A campaign under way."""

    def __init__(self, campaign: Campaign, on_task: OnTask) -> None:
        self.campaign, self.on_task = campaign, on_task
        self.checkpoint = Checkpoint.find(campaign.model)
        self.folder, self.geometry = self.checkpoint.folder, self.checkpoint.geometry
        self.store = ResultStore(campaign.out)
        self.library = movements(Library(campaign.motions).list())
        names = [move.name for move in self.library]
        unknown = sorted(set(campaign.movements) - set(names))
        if unknown:
            raise RequestError(
                f"the library has no motion {', '.join(unknown)}; choose from {', '.join(names)}"
            )
        self.published = campaign.data and read_published(campaign.data, geometry=self.geometry)
        self.rule = self.checkpoint.defaults.rmpm.get("rule", PropagationConfig().rule)
        self.made_with = self._made_with()
        self.ids = metric_ids(WeightStore(campaign.settings.judges), rendered=campaign.data is None)
        self.gaps: list[str] = []
        self._digests: dict[Path, str] = {}
        self._stock_files: dict[str, StockFiles] = {}

    def _made_with(self) -> dict[str, Any]:
        """Everything but case, variant and motions that a video depends on."""
        files = [self.folder / "model_index.json", self.folder / "generation.json"]
        for part in MODEL_PARTS:
            files += listed(self.folder / part)
        digests = [[str(f.relative_to(self.folder)), file_digest(f)] for f in files if f.is_file()]
        settings = self.campaign.settings
        device = device_named(self.campaign.device or settings.device)
        return {
            "model": content_key({"files": digests}),
            "steps": self.campaign.steps or self.checkpoint.defaults.steps,
            "device": str(device),
            "torch": version("torch"),
            "diffusers": version("diffusers"),
            "computing": COMPUTING,
            **running_of(settings),
        }

    def outcome(self) -> Outcome:
        campaign = self.campaign
        own = {"study_database": None, "model": str(self.folder)}
        config = WorkerConfig(campaign.settings.model_copy(update=own), campaign.device)
        if campaign.processes > 1:
            pool = Workers([config] * campaign.processes, load_runner, run_task)
        else:
            pool = ThisProcess(config, load_runner)
        with pool as workers:
            roster = self._roster(workers)
            if campaign.learn:
                self._learn_beforehand(workers, roster)
            suites = self._suites(roster)
            roster = self._learn(workers, suites, roster)
            cases = list({c.id: c for suite in suites for c in suite.cases}.values())
            write_inputs(cases, self.store.folder / "cases", fps=self.geometry.fps)
            videos, scores, problems = self._videos(workers, suites, roster, cases)
            propagation = self._propagation(workers, suites)
            figure = self._figure(workers, suites, roster)
        return Outcome(
            made_with=self.made_with,
            model=self.checkpoint.defaults.name,
            motions=tuple(movement.name for movement in self.library),
            ids=self.ids,
            suites=tuple(suites),
            external=tuple(method.name for method in campaign.external),
            scores=scores,
            videos=videos,
            gaps=(*self.gaps, *problems),
            propagation=propagation,
            figure=figure,
        )

    def _roster(self, workers: Mapper) -> dict[tuple[str, str], dict[str, Motion]]:
        """For each method the first file of each movement that it can use, asked of the engine."""
        campaign = self.campaign
        sets = motion_sets(campaign.variants, self._shown(), campaign.reduced)
        pairs = dict.fromkeys(
            (file, method)
            for (method, _), moves in sets.items()
            for move in moves
            for file in move.files
            if method != "none"
        )
        tasks = [ProbeTask(file, method) for file, method in pairs]
        words = (f"can {task.method} use {task.motion.name}?" for task in tasks)
        answers = self._all(workers, tasks, words)
        refusals = dict(zip(pairs, answers, strict=True))
        roster, gaps = usable_files(sets, refusals)
        if campaign.learn:  # what the library lacks of these is no gap then
            learned = [(method, LIBRARY) for method in (*PACK_METHODS, *TAUGHT)]
            kept = {key: moves for key, moves in sets.items() if key not in learned}
            gaps = usable_files(kept, refusals)[1]
        self.gaps += gaps
        if campaign.unmasked is not None:
            found = movements(Library([campaign.unmasked]).list())
            files = {move.name: move.files[0] for move in found}
            for variant in campaign.variants:
                roster[variant.method, UNMASKED] = files
        return roster

    def _shown(self) -> list[Movement]:
        """What of the library any scene can show: nothing is asked of the others."""
        if self.published is not None:
            shown = {thing.motion for case in self.published.cases for thing in case.objects}
        elif self.campaign.movements and not self.campaign.options.strata:
            shown = set(self.campaign.movements)
        else:
            return list(self.library)
        return [move for move in self.library if move.name in shown]

    def _movements(self, roster: Roster) -> list[str]:
        """What the main scenes draw from: what the renderer knows and full FlexiMMT can use, but
        motions of shape, which have scenes of their own."""
        usable = roster[FULL.method, LIBRARY]
        known = [move.name for move in self.library if move.name in MOTIONS and move.name in usable]
        chosen = self.campaign.movements
        return [n for n in known if n in chosen or (not chosen and n not in SHAPE_MOTIONS)]

    def _suites(self, roster: Roster) -> list[Suite]:
        campaign = self.campaign
        if self.published is not None:
            self.gaps += [f"not read: {problem}" for problem in self.published.problems]
            about = "the authors' pairs of picture and motions"
            return [Suite(MAIN, about, self.published.cases, campaign.variants)]
        skipped = sorted(set(roster[FULL.method, LIBRARY]) - set(MOTIONS))
        if skipped:
            self.gaps.append(f"the renderer does not know {', '.join(skipped)}; left out")
        suites = build_suites(
            campaign.variants,
            roster,
            campaign.options,
            names=self._movements(roster),
            geometry=self.geometry,
        )
        shown = {variant for suite in suites for variant in suite.variants}
        for variant in campaign.variants:
            if variant not in shown and roster.get((variant.method, variant.tokens)):
                self.gaps.append(f"{variant.name}: not run, it shares no motion with the others")
        return suites

    def _learn_beforehand(self, workers: Mapper, roster: dict[tuple[str, str], dict]) -> None:
        """Into ``roster`` what the main scenes need and the library has not: the same motions
        learned without masks and from scratch, SynMotion's packs, and what TAUGHT names."""
        names, campaign = self._movements(roster), self.campaign
        library = roster[FULL.method, LIBRARY]
        rows = {(variant.method, variant.tokens) for variant in campaign.variants}
        sets = {tokens for _, tokens in rows} & {UNMASKED, SCRATCH}
        sets -= {UNMASKED} if campaign.unmasked is not None else set()
        tasks = [self._lesson(tokens, name) for tokens in sorted(sets) for name in names]
        if packed := [method for method in PACK_METHODS if (method, LIBRARY) in rows]:
            lack = [n for n in names if any(n not in roster[m, LIBRARY] for m in packed)]
            tasks += [self._lesson(PACKED, name, beside=library[name].path) for name in lack]
        for method, tokens in TAUGHT.items():
            if (method, LIBRARY) in rows:
                lack = (name for name in names if name not in roster[method, LIBRARY])
                tasks += [self._lesson(tokens, name) for name in lack]
        learned = self._taught(workers, tasks)
        for method, tokens in rows:
            if method in TAUGHT:
                found = learned.get(TAUGHT[method], {})
                roster[method, tokens] = {**found, **roster[method, tokens]}
            if tokens in sets:
                roster[method, tokens] = learned.get(tokens, {})
            if tokens == LIBRARY and method in packed:
                roster[method, tokens] = {**learned.get(PACKED, {}), **roster[method, tokens]}

    def _learn(
        self,
        workers: Mapper,
        suites: Sequence[Suite],
        roster: dict[tuple[str, str], dict[str, Motion]],
    ) -> Roster:
        """``roster`` with what the ``suites`` beside the main one need and the library has not."""
        tasks = [self._lesson(tokens, name) for tokens, name in lessons(suites)]
        learned = self._taught(workers, tasks)
        rows = {(v.method, v.tokens) for s in suites for v in s.variants if v.tokens in LEARNED}
        return {**roster, **{(m, tokens): learned.get(tokens, {}) for m, tokens in rows}}

    def _taught(self, workers: Mapper, tasks: Sequence[LearnTask]) -> dict[str, dict[str, Motion]]:
        """What was learned, by the set of motion files and the movement."""
        words = (f"learn {task.name} ({task.tokens})" for task in tasks)
        answers = self._all(workers, tasks, words)
        learned: dict[str, dict[str, Motion]] = {}
        for task, answer in zip(tasks, answers, strict=True):
            if isinstance(answer, str):
                self.gaps.append(f"{task.name} was not learned ({task.tokens}): {answer}")
            else:
                learned.setdefault(task.tokens, {})[task.name] = answer
        return learned

    def _lesson(self, tokens: str, name: str, *, beside: Path | None = None) -> LearnTask:
        steps = self.campaign.training_steps
        about = {**self.made_with, "name": name, "training": steps}
        about |= {"marked": tokens == MARKED} if tokens in CROWDED else {"tokens": tokens}
        kind = CROWDED.get(tokens, f"motions/{tokens}")
        method = taught_by(tokens, usual=self.checkpoint.ways[0])
        if METHOD_TABLE[method].encoder:
            about |= self._encoder() if tokens == LOOKED_AT else {"by": method, **self._encoder()}
        if beside is not None:
            about["beside"] = self._digest(beside)
        out = self.store.path(kind, name, content_key(about), ".safetensors")
        return LearnTask(tokens, name, out, steps, beside)

    def _videos(
        self,
        workers: Mapper,
        suites: Sequence[Suite],
        roster: Roster,
        cases: Sequence[BenchmarkCase],
    ) -> tuple[dict, dict, list[str]]:
        """Files of videos, scores and problems, by (case id, row of the table)."""
        tasks: dict[tuple[str, str], VideoTask | ScoreTask] = {}
        problems: list[str] = []
        for suite in suites:
            for case, variant in itertools.product(suite.cases, suite.variants):
                motions = files_for(case, variant, roster)
                if motions is None:
                    lost = ", ".join(lacking(case, variant, roster))
                    problems.append(f"{case.id}, {variant.name}: has no file of {lost}")
                else:
                    tasks[case.id, variant.name] = self._video_task(case, variant, motions)
        for case in cases:
            if case.rendered is not None:
                tasks[case.id, TRUTH] = ScoreTask(case, self.ids, self._drawn_path(case, TRUTH))
                path = self._drawn_path(case, STILL)
                tasks[case.id, STILL] = ScoreTask(case, self.ids, path, still=True)
            for method in self.campaign.external:
                try:
                    file = method.find(case.id)
                except RequestError as error:
                    problems.append(f"{case.id}: {error}")
                    continue
                if file is None:
                    problems.append(f"{case.id}, {method.name}: no file in {method.folder.name}")
                    continue
                path = self._score_path(case, method.name, file_digest(file))
                tasks[case.id, method.name] = ScoreTask(case, self.ids, path, file)
        missing = {key: task for key, task in tasks.items() if not task.scores.is_file()}
        words = (" ".join(key) for key in missing)
        answers = self._all(workers, list(missing.values()), words)
        for key, answer in zip(missing, answers, strict=True):
            if answer:
                problems.append(f"{key[0]}, {key[1]}: {answer}")
        scored = {key: task for key, task in tasks.items() if task.scores.is_file()}
        scores = {key: CaseScores.from_json(read_json(t.scores)) for key, t in scored.items()}
        videos = {key: t.video for key, t in scored.items() if isinstance(t, VideoTask)}
        return videos, scores, problems

    def _video_task(
        self, case: BenchmarkCase, variant: Variant, motions: tuple[Motion, ...]
    ) -> VideoTask:
        rule = "" if variant.rule == self.rule else variant.rule
        key = content_key(
            {
                **self.made_with,
                **(self._encoder() if METHOD_TABLE[variant.method].encoder else {}),
                "case": case.digest(),
                "variant": [variant.method, *sorted(variant.without), rule],
                **({"stock": self._stock(variant.stock)} if variant.stock else {}),
                "motions": [self._digest(motion.path) for motion in motions],
            }
        )
        made_by = variant.name if variant.stock else variant.method
        name = " ".join([case.id, made_by, *sorted(variant.without), rule])
        video = self.store.path("videos", name, key, ".npz")
        scores = self._score_path(case, variant.name, key)
        return VideoTask(case, variant, motions, self.ids, video, scores, self.campaign.steps)

    def _drawn_path(self, case: BenchmarkCase, row: str) -> Path:
        return self._score_path(case, row, case.digest())

    def _score_path(self, case: BenchmarkCase, name: str, key: str) -> Path:
        about = {"video": key, "scoring": SCORING, "ids": self.ids}
        scored = content_key({**about, "references": case.reference_digest()})
        return self.store.path("scores", f"{case.id} {name}", scored, ".json")

    def _encoder(self) -> dict[str, Any]:
        """What the rows of the checkpoint's encoder are made with beside what all are."""
        files = listed(self.folder / Checkpoint.ENCODER)
        return {"encoder": [self._digest(file) for file in files]}

    def _stock(self, name: str) -> dict[str, Any]:
        """A model of others, and what it makes where nothing is asked."""
        if name not in self._stock_files:
            named = self.campaign.settings.stock_models
            self._stock_files[name] = StockFiles.find(name, among=named)
        files = self._stock_files[name]
        return {"weights": files.fingerprint, **asdict(files.model)}

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests[path]

    def _propagation(
        self, workers: Mapper, suites: Sequence[Suite]
    ) -> list[dict[str, list[float]]]:
        """IoU of RMPM's rules on the main suite's scenes of two, by scene."""
        pairs = [case for case in suites[0].cases if case.rendered is not None]
        chosen = sorted(pairs, key=lambda case: len(case.objects) != 2)
        tasks, about = [], {**self.made_with, "scoring": SCORING}
        for case in chosen[: self.campaign.propagation_cases]:
            key = content_key({**about, "case": case.digest()})
            tasks.append(PropagationTask(case, self.store.path("rmpm", case.id, key, ".json")))
        missing = [task for task in tasks if not task.path.is_file()]
        self._all(workers, missing, (f"{task.case.id} RMPM's rules" for task in missing))
        return [read_json(task.path) for task in tasks]

    def _figure(self, workers: Mapper, suites: Sequence[Suite], roster: Roster) -> Path | None:
        """The picture of features and masks by step of the first scene of two."""
        pairs = [case for case in suites[0].cases if len(case.objects) == 2]
        motions = files_for(pairs[0], FULL, roster) if pairs else None
        if motions is None:
            return None
        key = content_key({**self.made_with, "case": pairs[0].digest()})
        path = self.store.path("rmpm", f"{pairs[0].id}.steps", key, ".png")
        if not path.is_file():
            task = FeatureTask(pairs[0], motions, path, self.campaign.steps)
            problem = self._all(workers, [task], ["features and masks by step"])[0]
            if problem:
                self.gaps.append(f"features and masks by step: {problem}")
                return None
        return path

    def _all(self, workers: Mapper, tasks: Sequence[Task], words: Iterable[str]) -> list[Any]:
        """Every task's answer, in order."""
        said = list(words)
        answers: dict[int, Any] = {}
        for index, answer in workers.map(tasks):
            answers[index] = answer
            self.on_task(len(answers), len(tasks), said[index])
        return [answers[index] for index in range(len(tasks))]
