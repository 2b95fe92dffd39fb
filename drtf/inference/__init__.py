"""What is done with a run folder: judging, scoring, heat maps."""
