"""Training: from a set and a config to a run folder, exactly resumable."""
