"""Models: networks and their losses, what runs them, and the folder they live in."""
