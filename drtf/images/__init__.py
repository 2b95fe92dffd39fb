"""Pixels: one photograph at a time; no files' meaning and no models."""
