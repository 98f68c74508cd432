"""Laws of batches on a Ray cluster: several nodes, started on this machine, one of which dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster

from motion_app.errors import CheckpointError
from motion_app.jobs.batch import Done, Lost, run_batch
from motion_app.jobs.content_keys import Ingredients
from motion_app.jobs.kinds import WorkerConfig, Workshop
from motion_app.jobs.manifest import read_manifest
from motion_app.jobs.ray_workers import RayWorkers, processors
from motion_app.jobs.results import Ledger
from motion_app.jobs.workers import attempt
from motion_app.settings import Settings

NODES = 3  # the head, this program's own, which may be another one, and one that can die
ITEMS = 5
STEPS = 30  # long enough for a node to die over one


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """So many nodes with one processor each, and little memory."""
    lean = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_log_monitor": False}
    head = {**lean, "include_dashboard": False, "no_monitor": True}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_worker_niceness", "0")  # else 15, and tests beside it starve them
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(NODES - 1):
                cluster.add_node(**lean)
            yield cluster
        finally:
            cluster.shutdown()


def manifest(folder: Path) -> Path:
    Image.fromarray(np.full((32, 48, 3), 90, np.uint8)).save(folder / "image.png")
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    only = {"mask": "mask.png", "sentence": "A red robot is moving."}
    lines = [
        {
            "kind": "generate",
            "id": f"robot-{seed}",
            "seed": seed,
            "steps": STEPS,
            "image": "image.png",
            "objects": [only],
        }
        for seed in range(ITEMS)
    ]
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_setting_that_cannot_hold_on_a_workers_machine_ends_the_batch_in_its_own_words(
    cluster: Cluster, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(
        model=str(tiny_checkpoint), motions=(tmp_path / "library",), kernel="no_such_kernel"
    )
    items = read_manifest(
        manifest(tmp_path), Ingredients(settings, remembered=tmp_path / "known.json")
    )
    ledger, config = Ledger(tmp_path / "out"), WorkerConfig(settings, "cpu")

    def hire(missing: int) -> RayWorkers:
        do = partial(attempt, ledger.out)
        return RayWorkers(cluster.address, config, Workshop, do, workers=1, most=missing)

    with pytest.raises(CheckpointError) as caught:
        run_batch(items, ledger, hire)
    assert str(caught.value).startswith('the attention kernel "no_such_kernel" does not run on cpu')


def test_every_item_has_one_result_though_a_node_dies_over_one(
    cluster: Cluster, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = Settings(model=str(tiny_checkpoint), motions=(tmp_path / "library",))
    items = read_manifest(
        manifest(tmp_path), Ingredients(settings, remembered=tmp_path / "known.json")
    )
    ledger, killed = Ledger(tmp_path / "out"), []

    class Deadly(RayWorkers):
        def collect(self, timeout: float) -> list[Done | Lost]:
            own = ray.get_runtime_context().get_node_id()  # without it this program is cut off
            others = {node.node_id: node for node in cluster.worker_nodes if node.node_id != own}
            busy = [node for node in self.busy_nodes if node in others]
            if busy and not killed:
                killed.append(busy[0])
                cluster.remove_node(others[busy[0]], allow_graceful=False)
            return super().collect(timeout)

    def hire(missing: int) -> RayWorkers:
        config, do = WorkerConfig(settings, "cpu"), partial(attempt, ledger.out)
        pool = Deadly(cluster.address, config, Workshop, do, workers=None, most=missing)
        while pool.free < NODES:
            pool.collect(1.0)
        return pool

    outcome = run_batch(items, ledger, hire)
    assert killed and outcome.lost >= 1  # one more where its successor began on the dying node
    assert (outcome.left, len(outcome.failures), outcome.exit_code) == (0, 0, 0)
    assert sorted(answer.item.id for answer in outcome.answers) == sorted(i.id for i in items)
    folders = list(ledger.results.iterdir())
    assert sorted(path.name for path in folders) == sorted(item.name for item in items)
    for item in items:
        outcome_files = ledger.record(item)["outcome"]
        with np.load(ledger.place(item) / outcome_files["frames"]) as kept:
            assert kept["frames"].shape == (13, 32, 48, 3)


@pytest.mark.parametrize(
    ("own", "workers", "share"),
    [([8, 8, 8], 3, 8), ([8, 8], 4, 4), ([16, 4], 2, 4), ([2], 5, 1), ([0, 6], 1, 6)],
)
def test_the_processors_of_a_worker_fit_on_every_node(own, workers, share):
    assert processors([{"CPU": count} for count in own], workers) == share
