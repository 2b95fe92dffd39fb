"""Training: from a dataset and a config to a run folder, with exact resume."""
