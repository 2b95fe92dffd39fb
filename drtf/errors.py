"""The errors that are the user's to mend, shown by the tools as one line."""


class DrtfError(Exception):
    """Base of all errors that a user can mend; the message says how."""


class ConfigError(DrtfError):
    """A setting is unknown, has the wrong type or lies outside its range."""


class LabelError(DrtfError):
    """A label file can't be read as what it claims to be."""


class PhotographError(DrtfError):
    """One photograph can't be used; `reason` is a word from a fixed vocabulary."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class RecordError(DrtfError):
    """A shard, its index or its manifest is damaged, or none of ours."""


class DamagedRecordError(RecordError):
    """A record fails its checksums; `row` is its row in the set's index."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class StorageError(DrtfError):
    """An object store can't be reached, or refuses."""


class StoppedError(DrtfError):
    """A signal, kept as `signal`, stopped what can go on; the message says how."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)
        self.signal = signal

    def __str__(self) -> str:
        return str(self.args[0])


class RunError(DrtfError):
    """A run folder is missing, incomplete or made for something else."""
