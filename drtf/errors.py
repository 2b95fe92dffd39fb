"""Errors that a user can fix. The command line shows them as one line."""


class DrtfError(Exception):
    """Base class of all errors that a user can fix; the message says how."""


class ConfigError(DrtfError):
    """A setting is unknown, has the wrong type or is out of range."""


class LabelError(DrtfError):
    """A label file or an image folder cannot be used as given."""


class NoPhotographsError(LabelError):
    """An image folder has no photographs."""


class PhotographError(DrtfError):
    """One photograph cannot be used.

    Attributes:
        reason: A word from a fixed vocabulary, such as `unreadable`.
        detail: What exactly is wrong.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class PatientKeyError(DrtfError):
    """The key of the patients' pseudonyms cannot be used."""


class RecordError(DrtfError):
    """A shard, its index or its manifest is damaged or was not written by drtf."""


class DamagedRecordError(RecordError):
    """A record does not match its checksums.

    Attributes:
        row: Row of the record in the dataset's index.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class StorageError(DrtfError):
    """An object store cannot be reached or refuses a request."""


class StoppedError(DrtfError):
    """A signal stopped work that can be resumed; the message says how.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return str(self.args[0])


class RunError(DrtfError):
    """A run folder is missing, incomplete or does not fit."""
