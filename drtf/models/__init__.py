"""Models: training, and all that works on what training leaves behind."""
