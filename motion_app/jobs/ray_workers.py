"""Workers of a batch as actors of a Ray cluster: each keeps its model loaded and gets the next item
when it is done with one. An actor that is lost, with its process, its machine or the network, is
replaced wherever there is room, now or once there is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.job_config import JobConfig

from motion_app.errors import MotionAppError
from motion_app.jobs.batch import Done, Lost
from motion_app.jobs.kinds import WorkerConfig
from motion_app.jobs.workers import MOST_STILLBORN, Do, Open
from motion_app.media.sandbox import PACKAGES

logger = logging.getLogger(__name__)

PATIENT_SECONDS = 60.0  # without a single worker, after which that is said


class Actor:
    """What runs on a node. ``stop`` is heard while ``do`` runs: it has two threads."""

    def __init__(self, config: WorkerConfig, opens: Open, do: Do) -> None:
        self._models, self._do = config.models(), do
        self._opened = cache(partial(opens, config))
        self._stop = threading.Event()

    def node(self) -> str:
        """Where it is; answered when it is ready. Raises as ``Models.check`` where the settings
        cannot hold there."""
        self._models.check()
        return ray.get_runtime_context().get_node_id()

    def do(self, task: Any) -> Any:
        return self._do(task, self._opened, lambda: not self._stop.is_set())

    def stop(self) -> None:
        self._stop.set()


@dataclass(eq=False)
class _RayWorker:
    actor: ActorHandle
    node: str | None = None  # None: not ready yet
    task: Any = None


class RayWorkers:
    """Actors on the cluster at ``address`` ("auto": the one this machine belongs to), spread over
    its nodes. ``workers`` None: one for each GPU, or one for each node where there is none; never
    more than ``most``.

    Tasks are done as by ``Workers``; a folder they name must be one that all nodes see under the
    same path. MotionAppError for a cluster that does not answer.
    """

    def __init__(
        self,
        address: str,
        config: WorkerConfig,
        opens: Open,
        do: Do,
        *,
        workers: int | None,
        most: int,
    ) -> None:
        self._own = not ray.is_initialized()
        if self._own:
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    # Where the package is not installed but lies in a folder that all nodes see.
                    job_config=JobConfig(code_search_path=search_path(os.environ)),
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                line = " ".join(str(error).split())
                raise MotionAppError(
                    f'no Ray cluster answers at "{address}": {line[:200]}; start one with "ray '
                    'start --head", or give its address'
                ) from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        count = min(workers or gpus or len(nodes), most)
        share = processors(nodes, count)
        self._options = {
            "num_cpus": share,
            "num_gpus": 1 if gpus else 0,
            "max_restarts": 0,
            "max_concurrency": 2,
            "scheduling_strategy": "SPREAD",
        }
        # Of the GPUs of its node an actor sees its own alone.
        device = "cuda" if gpus and config.device is None else config.device
        self._arguments = (replace(config, device=device, threads=share), opens, do)
        self._workers: dict[ray.ObjectRef, _RayWorker] = {}
        self._idle: list[_RayWorker] = []
        self._stopping, self._stillborn = False, 0
        self._alone_since: float | None = time.monotonic()
        for _ in range(count):
            self._start()

    @property
    def size(self) -> int:
        return len(self._workers) + len(self._idle)

    @property
    def free(self) -> int:
        """Workers that wait for a task."""
        return len(self._idle)

    @property
    def busy_nodes(self) -> list[str]:
        """The ids of the nodes whose workers are making something."""
        return [w.node for w in self._workers.values() if w.task is not None and w.node]

    def give(self, task: Any) -> None:
        """Let a free worker do ``task``."""
        worker = self._idle.pop(0)
        worker.task = task
        self._workers[worker.actor.do.remote(task)] = worker

    def collect(self, timeout: float) -> list[Done | Lost]:
        """What happened, waiting up to ``timeout`` seconds for it. MotionAppError where workers
        fail before they begin, and where a setting cannot hold on a worker's machine."""
        self._say_whether_alone()
        if not self._workers:
            time.sleep(timeout)
            return []
        if not ray.wait(list(self._workers), num_returns=1, timeout=timeout)[0]:
            return []
        done, _ = ray.wait(list(self._workers), num_returns=len(self._workers), timeout=0)
        return [one for ref in done if (one := self._heard(ref)) is not None]

    def _heard(self, reference: ray.ObjectRef) -> Done | Lost | None:
        worker = self._workers.pop(reference)
        try:
            said = ray.get(reference)
        except RayError as error:
            cause = getattr(error, "cause", None)
            if worker.task is None and isinstance(cause, MotionAppError):
                raise type(cause)(str(cause)) from error
            return self._replace(worker, error)
        self._idle.append(worker)
        if worker.task is None:
            worker.node, self._stillborn, self._alone_since = said, 0, None
            return None
        task, worker.task = worker.task, None
        return Done(task, said)

    def _start(self) -> None:
        actor = ray.remote(Actor).options(**self._options).remote(*self._arguments)
        self._workers[actor.node.remote()] = _RayWorker(actor)

    def _replace(self, worker: _RayWorker, error: RayError) -> Lost:
        """Another worker for one that is lost. Should it live on, cut off, it may still commit its
        item; who is second then finds that done."""
        ray.kill(worker.actor)
        line = " ".join(str(error).split())[:300]
        self._stillborn += worker.node is None
        if self._stillborn >= MOST_STILLBORN:
            raise MotionAppError(
                f"{MOST_STILLBORN} workers in a row ended before they began: {line}; is this "
                "package installed on every node, as it is here?"
            )
        if not self._stopping:
            self._start()
        kind = "its worker was lost" if isinstance(error, RayActorError) else "its worker failed"
        return Lost(worker.task, f"{kind}: {line}")

    def _say_whether_alone(self) -> None:
        since = self._alone_since
        if since is not None and time.monotonic() - since > PATIENT_SECONDS:
            self._alone_since = None
            logger.warning(
                "no worker began within %.0f s: the cluster has no room for one with %s processors "
                "and %s GPU; it is waited for",
                PATIENT_SECONDS,
                self._options["num_cpus"],
                self._options["num_gpus"],
            )

    def stop(self) -> None:
        """Ask every worker to drop its task at the next step; start no other."""
        self._stopping = True
        for reference, worker in list(self._workers.items()):
            if worker.task is None:  # it has not begun to live
                del self._workers[reference]
                ray.kill(worker.actor)
            else:
                worker.actor.stop.remote()

    def close(self) -> None:
        """Let the workers go, and the cluster where it was joined here."""
        if ray.is_initialized():  # the driver may have been cut off; its actors end with it
            for worker in [*self._workers.values(), *self._idle]:
                ray.kill(worker.actor)
        self._workers.clear()
        self._idle.clear()
        if self._own:
            ray.shutdown()


def search_path(environment: Mapping[str, str]) -> list[str]:
    """Where the workers look for modules: beside this package, and where the program is told to."""
    return [PACKAGES, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]


def processors(nodes: Sequence[dict[str, Any]], workers: int) -> int:
    """Processors for each of ``workers`` on nodes with these resources: an equal share, but no more
    than the smallest node has, so that each worker fits somewhere."""
    own = [int(node.get("CPU", 0)) for node in nodes]
    useful = [count for count in own if count] or [os.cpu_count() or 1]
    return max(1, min(sum(useful) // workers, min(useful)))
