"""A folder that is watched: photographs are scored as they arrive."""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drtf.errors import DrtfError, LabelError, NoPhotographsError, StorageError
from drtf.photographs.listing import SkippedFile, list_photographs
from drtf.photographs.references import FileStatus, PhotographRef, map_in_threads
from drtf.scoring.growing_table import Duplicate, Growth, append_rows, save_notes
from drtf.scoring.patient_table import save_patient_table
from drtf.scoring.score_table import written_path
from drtf.scoring.scorer import Scorer
from drtf.scoring.scoring import check_request
from drtf.scoring.table_files import Location
from drtf.signals import wait_for_signal
from drtf.texts import TextRows

_log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
SECONDS_BETWEEN_WARNINGS = 3600.0
# How long a network share or a store may be away, such as over a long weekend.
MAX_OUTAGE_SECONDS = 84 * 3600.0


class _Arrivals:
    """The photographs of a folder, and which of them are ready to be scored.

    A photograph is settled if its size and the time of its last change are the same as
    at the look before. It is ready if it is settled, can be read, and has no row yet.

    Attributes:
        images: The folder.
        skipped: Files that are not photographs.
        settled: The settled photographs.
    """

    def __init__(self, images: Path | str) -> None:
        self.images = images
        self.skipped = TextRows(SkippedFile)
        self.settled: list[PhotographRef] = []
        self._seen: dict[str, FileStatus] = {}
        self._scored: dict[str, FileStatus] = {}
        self._unreadable: set[str] = set()

    def look(self) -> list[PhotographRef]:
        """List the folder, and return the photographs that are ready."""
        listing = list_photographs(self.images)
        photographs = listing.photographs
        self.skipped = listing.skipped
        statuses = {
            photograph.path: status
            for photograph, status in zip(
                photographs,
                map_in_threads(PhotographRef.status, photographs),
                strict=True,
            )
        }
        self.settled = [
            x for x in photographs if statuses[x.path] == self._seen.get(x.path)
        ]
        self._seen = statuses
        return [
            x
            for x in self.settled
            if statuses[x.path] != self._scored.get(x.path) and self._can_read(x)
        ]

    def keep_scored(self, photographs: Sequence[PhotographRef]) -> None:
        """Note that photographs have a row, as they were at the last look."""
        for photograph in photographs:
            self._scored[photograph.path] = self._seen[photograph.path]

    def _can_read(self, photograph: PhotographRef) -> bool:
        """Return whether a photograph can be read; programs lock what they write."""
        if photograph.read_head(1) is not None:
            self._unreadable.discard(photograph.path)
            return True
        if photograph.path not in self._unreadable:
            self._unreadable.add(photograph.path)
            _log.warning("%s cannot be read yet; it will be tried again", photograph)
        return False


@dataclass
class _Outage:
    """The time since which the folder or the table cannot be used."""

    start: float | None = None
    warned: float = 0.0

    def note(self, error: Exception) -> None:
        """Warn of an error now and then; raise it if it has lasted for too long."""
        now = time.monotonic()
        if self.start is None:
            self.start, self.warned = now, -SECONDS_BETWEEN_WARNINGS
        if now - self.start > MAX_OUTAGE_SECONDS:
            raise error
        if now - self.warned >= SECONDS_BETWEEN_WARNINGS:
            self.warned = now
            _log.warning("%s. Nothing is lost; trying again until it works", error)

    def end(self) -> None:
        """Report that it is over."""
        if self.start is not None:
            seconds = time.monotonic() - self.start
            _log.warning("it works again, after %.0f s", seconds)
            self.start = None


def _may_pass(error: Exception) -> bool:
    """Return whether a disk, a network or a store may be at fault."""
    is_known = isinstance(error, OSError | StorageError | LabelError)
    return is_known or isinstance(error.__cause__, OSError)


def watch(
    scorer: Scorer,
    images: Path | str,
    out: Location,
    *,
    signals: Sequence[signal.Signals],
    by_patient: bool = False,
    save_results: Callable[[Growth], None] = lambda growth: None,
    poll_seconds: float = POLL_SECONDS,
) -> Iterator[Growth]:
    """Score photographs as they arrive, until a signal is caught.

    A photograph that is still being copied is left until its size and the time of its
    last change stay the same. A folder, table or store that cannot be used for a while
    is waited for, up to MAX_OUTAGE_SECONDS.

    Args:
        scorer: What scores them.
        images: As for `append_scores`. The folder may be empty at first.
        out: As for `append_scores`.
        signals: From `catch_signals`.
        by_patient: As for `append_scores`.
        save_results: Saves further results. It is called again with the next growth if
            it fails.
        poll_seconds: Time between looks. It is longer if a look takes longer.

    Yields:
        What was appended, each time that photographs were scored.

    Raises:
        DrtfError: As `append_scores`, at the first look or after a long outage.
    """
    check_request(out, scorer.config, form="table")
    arrivals, outage = _Arrivals(images), _Outage()
    duplicates: dict[str, Duplicate] = {}
    has_worked = is_empty = False
    while not signals:
        start = time.monotonic()
        try:
            ready = arrivals.look()
            if ready:
                growth = append_rows(
                    scorer,
                    ready,
                    out,
                    present=arrivals.settled,
                    stop=lambda: bool(signals),
                )
                for photograph in ready:  # it may have another content now
                    duplicates.pop(written_path(photograph.path), None)
                duplicates |= {item.path: item for item in growth.duplicates}
                save_notes(
                    replace(growth, duplicates=list(duplicates.values())),
                    arrivals.skipped,
                )
                if by_patient:
                    save_patient_table(
                        out, growth.current, patient_pattern=scorer.patient_pattern
                    )
                save_results(growth)
                arrivals.keep_scored(ready)
        except NoPhotographsError:
            outage.end()
            if not is_empty:
                _log.warning("there are no photographs in %s; waiting for some", images)
            is_empty, has_worked = True, True
        except (OSError, DrtfError) as error:
            if not (has_worked and _may_pass(error)):
                raise
            outage.note(error)
        else:
            is_empty, has_worked = False, True
            outage.end()
            if ready:
                yield growth
        wait_for_signal(signals, max(poll_seconds, time.monotonic() - start))
