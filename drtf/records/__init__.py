"""The format on disk: shards, index and manifest. Knows bytes, not images or models."""

__all__ = [
    "framing",
    "gather",
    "index",
    "interop",
    "manifest",
    "plan",
    "reader",
    "rejected",
    "remote",
    "schema",
    "verify",
    "writer",
]
