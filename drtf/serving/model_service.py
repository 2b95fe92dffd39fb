"""One model that scores photographs as they arrive.

Processes prepare the photographs. One thread applies the network to all those that are
ready: while it predicts one batch, the next one fills up. So no photograph waits for
others, and batches are full under load.
"""

import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue

import numpy as np

from drtf.heatmaps.heatmaps import build_map_function, check_settings
from drtf.heatmaps.overlays import (
    PICTURE_SIDE,
    Explained,
    draw_overlay,
    draw_photograph,
    explain,
)
from drtf.images.preprocess import encode_image
from drtf.models.views import photographs_per_batch
from drtf.photographs.prepare import (
    NetworkInput,
    Rejected,
    open_preparation,
)
from drtf.photographs.references import PhotographRef, PrefetchedPhotograph
from drtf.photographs.uploads import (
    OpenedFile,
    open_dicom,
    photograph_from_bytes,
)
from drtf.scoring.photograph_scores import (
    preparation,
    scored_photographs,
)
from drtf.scoring.score_table import Row
from drtf.scoring.scorer import Scorer
from drtf.workers import count_workers

_log = logging.getLogger(__name__)

WARM_UP_SIDE = 64


@dataclass(frozen=True)
class Overlay:
    """A heat map over its photograph.

    Attributes:
        picture: The photograph as the network sees it, a PNG file.
        overlay: The same with the heat map, a PNG file.
    """

    picture: bytes
    overlay: bytes


@dataclass(frozen=True)
class Answer:
    """The model's answer for one photograph.

    Attributes:
        row: Its row, without the cells that depend on other rows.
        explained: Its heat map; None if it was not requested, or there is no score.
    """

    row: Row
    explained: Explained | None = None


@dataclass(frozen=True)
class _Job:
    """A photograph on its way.

    Attributes:
        photograph: The photograph.
        with_overlay: Whether its heat map is requested.
        answer: What the caller waits for.
    """

    photograph: PhotographRef
    with_overlay: bool
    answer: Future[Answer] = field(default_factory=Future)


class ModelService:
    """A run behind a queue; `open_service` makes one.

    Attributes:
        scorer: The run, with the settings to score with.
    """

    def __init__(self, scorer: Scorer) -> None:
        """Load the network."""
        self.scorer = scorer
        run = scorer.run
        # A single photograph has no others to share a scale with.
        self._maps = run.config.gradcam.model_copy(update={"scale": "image"})
        check_settings(run, self._maps)
        self._compute_maps = build_map_function(run, self._maps)
        self._batch_size = photographs_per_batch(scorer.config.batch_size, run.tta)
        self._ready: SimpleQueue[tuple[_Job, NetworkInput] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread of the model runs."""
        return self._thread.is_alive()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take photographs in this block, with processes to prepare them."""
        self._thread.start()
        try:
            num_workers = self.scorer.config.num_workers
            with open_preparation(num_workers=num_workers) as self._prepare:
                yield
        finally:
            self._ready.put(None)
            self._thread.join()

    def warm_up(self) -> None:
        """Score gray photographs with heat maps, so that the first request is fast.

        There is one for each process, which starts with it.

        Raises:
            DrtfError: If the machine cannot score a photograph.
        """
        gray = np.full((WARM_UP_SIDE, WARM_UP_SIDE, 3), 128, np.uint8)
        photograph = photograph_from_bytes("gray.png", encode_image(gray, "png"))
        num_workers = count_workers(self.scorer.config.num_workers)
        answers = [
            self.submit(photograph, with_overlay=number == 0)
            for number in range(num_workers)
        ]
        for answer in answers:
            answer.result()

    def open_dicom(
        self, file: PrefetchedPhotograph, *, max_frames: int, max_bytes: int
    ) -> Future[OpenedFile | Rejected]:
        """Start to read the tags and the frames of a DICOM file, in a process.

        Args:
            file: The file, and the others are as for `uploads.open_dicom`.
            max_frames: The most frames that are of use.
            max_bytes: The most bytes of frames that are of use.

        Returns:
            A future. It is a rejection if the file crashes or hangs the process.
        """
        return self._prepare(
            functools.partial(open_dicom, max_frames=max_frames, max_bytes=max_bytes),
            file,
        )

    def submit(
        self, photograph: PhotographRef, *, with_overlay: bool = False
    ) -> Future[Answer]:
        """Start to score a photograph.

        Args:
            photograph: The photograph, in memory.
            with_overlay: Whether to compute its heat map.

        Returns:
            A future. It raises a DrtfError if the machine is at fault.
        """
        job = _Job(photograph, with_overlay)

        def enqueue(prepared: Future[NetworkInput | Rejected]) -> None:
            if job.answer.cancelled():
                return
            try:
                item = prepared.result()
                if not isinstance(item, Rejected):
                    self._ready.put((job, item))
                    return
                answer = Answer(self.scorer.row(photograph, item, None))
            except BaseException as error:
                if job.answer.set_running_or_notify_cancel():
                    job.answer.set_exception(error)
                return
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_result(answer)

        run = self.scorer.run
        picture_size = max(PICTURE_SIDE, run.info.image_size) if with_overlay else 0
        prepare = preparation(run, picture_size=picture_size)
        prepared = self._prepare(prepare, photograph)
        prepared.add_done_callback(enqueue)
        # A photograph that nobody waits for any more is not prepared, and not scored.
        job.answer.add_done_callback(
            lambda answer: answer.cancelled() and prepared.cancel()
        )
        return job.answer

    def draw(self, explained: Explained, *, is_positive: bool) -> Overlay:
        """Draw a heat map.

        Args:
            explained: From an answer.
            is_positive: What the photograph's row says once it is completed.
        """
        explained = replace(explained, is_positive=is_positive)
        return Overlay(
            picture=encode_image(draw_photograph(explained), "png"),
            overlay=encode_image(draw_overlay(explained, self._maps, scale=0), "png"),
        )

    def _serve(self) -> None:
        """Answer photographs until None arrives."""
        while jobs := self._take_batch():
            try:
                self._answer(jobs)
            except Exception as error:
                for job, _ in jobs:
                    if not job.answer.done():
                        job.answer.set_exception(error)

    def _take_batch(self) -> list[tuple[_Job, NetworkInput]]:
        """Wait for a photograph; return it and the others that are ready.

        Those that nobody waits for any more are left out: under a load that is too
        high, they would take the time of those that can still be answered.
        """
        jobs: list[tuple[_Job, NetworkInput]] = []
        item = self._ready.get()
        while item is not None:
            if item[0].answer.set_running_or_notify_cancel():
                jobs.append(item)
            if len(jobs) == self._batch_size:
                return jobs
            try:
                item = self._ready.get(block=not jobs)
            except Empty:
                return jobs
        if jobs:
            self._ready.put(None)  # the next call ends the thread
        return jobs

    def _answer(self, jobs: Sequence[tuple[_Job, NetworkInput]]) -> None:
        batch = self.scorer.predict_batch([item for _, item in jobs])
        results = list(scored_photographs(self.scorer.run, batch))
        explained = []
        for (job, item), (_, scored) in zip(jobs, results, strict=True):
            row = self.scorer.row(job.photograph, item, scored)
            if job.with_overlay and scored and not row["error"]:
                explained.append((job, item, scored, row))
            else:
                job.answer.set_result(Answer(row))
        for job, item, scored, row in explained:
            (found,) = explain(
                self._compute_maps,
                item.image[None],
                names=[item.path],
                scores=[scored.score],
                is_positive=[False],  # unknown until both eyes are combined
                pictures=[item.image if item.picture is None else item.picture],
            )
            job.answer.set_result(Answer(row, found))


@contextmanager
def open_service(scorer: Scorer) -> Iterator[ModelService]:
    """Load the network and start the processes; stop them at the end.

    Raises:
        RunError: If the network cannot be loaded.
        DrtfError: If heat maps cannot be computed, or the machine cannot score.
    """
    service = ModelService(scorer)
    with service.running():
        service.warm_up()
        yield service
