"""Data: which photographs there are, how they are laid down and in what order read."""
