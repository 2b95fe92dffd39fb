"""Photographs: finds them, and makes each ready for a network."""

__all__ = [
    "archives",
    "contents",
    "listing",
    "prepare",
    "references",
]
