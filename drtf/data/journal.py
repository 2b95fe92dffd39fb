"""The journal of a build: a line a photograph, so that a killed build goes on."""

import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any, Self

from drtf.errors import DrtfError
from drtf.files import write_unbuffered

JOURNAL_FILE = ".journal.jsonl"


class Journal:
    """What a build has done so far, in the order of its plan.

    The first line names the plan. A line follows what it tells of, so what a line
    says was written has been handed to the system; a last line that a kill cut short
    is dropped.

    Attributes:
        entries: a dict a photograph that is done.
        last_written: when an earlier process wrote the last one, in seconds.
    """

    def __init__(self, path: Path, *, plan_sha256: str) -> None:
        """Open a journal, or begin one.

        Raises:
            DrtfError: if another process has it open, or it is of another plan.
        """
        self._path = path
        self.last_written = path.stat().st_mtime if path.exists() else math.inf
        self._file = path.open("a+b", buffering=0)
        try:
            self._lock()
            self.entries = self._read(plan_sha256)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, entry: dict[str, Any]) -> None:
        """Tell of one more photograph."""
        self._write(entry)
        self.entries.append(entry)

    def keep(self, count: int) -> None:
        """Forget all but the first entries."""
        header, *lines = self._lines()
        self._file.truncate(sum(map(len, (header, *lines[:count]))))
        del self.entries[count:]

    def sync(self) -> None:
        """Make sure that what was told survives a loss of power."""
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DrtfError(
                f"another process is building in {self._path.parent}: wait for it, or "
                "choose another --out"
            ) from error

    def _read(self, plan_sha256: str) -> list[dict[str, Any]]:
        lines = self._lines()
        if not lines:
            self._file.truncate(0)
            self._write({"plan_sha256": plan_sha256})
            return []
        entries = [json.loads(line) for line in lines]
        if entries[0] != {"plan_sha256": plan_sha256}:
            raise DrtfError(
                f"{self._path.parent} holds an unfinished build of other photographs, "
                "labels, settings or versions: go back to these, remove that folder "
                "to begin anew, or choose another --out"
            )
        self._file.truncate(sum(map(len, lines)))
        return entries[1:]

    def _lines(self) -> list[bytes]:
        """Return the whole lines; what follows a damaged one counts for nothing."""
        self._file.seek(0)
        whole = []
        for line in self._file.readall().splitlines(keepends=True):
            try:
                json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            whole.append(line)
        return whole

    def _write(self, entry: dict[str, Any]) -> None:
        write_unbuffered(self._file, (json.dumps(entry) + "\n").encode())
