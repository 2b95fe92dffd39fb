"""Building: converts labeled photographs into datasets, on one host or several."""

__all__ = [
    "build",
    "changes",
    "finished",
    "journal",
    "merge",
    "metadata",
    "plan",
    "plan_file",
    "replan",
    "reports",
    "resume",
    "shared_build",
    "shared_files",
    "tasks",
    "write",
]
