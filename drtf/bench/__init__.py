"""Benches: commands that print their figures side by side, from one run."""
