"""Whether a dataset exists already, and whether a build would give the same."""

import os
from pathlib import Path

from drtf.building.changes import find_changed_photograph
from drtf.building.plan import BuildPlan, describe_differences, flatten_settings
from drtf.errors import DrtfError, RecordError
from drtf.locations import is_remote
from drtf.records.manifest import Manifest, load_manifest
from drtf.records.reader import ShardDataset
from drtf.records.remote import load_remote_manifest

CHOICE = "move it away, or choose another --out"


def load_finished(out: Path | str) -> Manifest | None:
    """Load the manifest of a dataset that exists; None if `out` does not exist.

    In a store, anything without a manifest counts as no dataset.

    Raises:
        DrtfError: If `out` is something else.
        StorageError: If the object store fails.
    """
    if is_remote(out):
        return load_remote_manifest(str(out).rstrip("/"))
    if not os.path.lexists(out):  # a broken link exists too
        return None
    try:
        return load_manifest(Path(out))
    except RecordError as error:
        raise DrtfError(
            f"{out} already exists and is not a dataset: {CHOICE}"
        ) from error


def check_same_plan(manifest: Manifest, plan: BuildPlan, out: Path | str) -> None:
    """Check that a dataset is the one that a plan would give.

    Raises:
        DrtfError: If it is another one.
    """
    if manifest.plan_sha256 == plan.sha256:
        return
    found = flatten_settings(
        manifest.name,
        {"images": manifest.preprocessing, **manifest.settings},
        manifest.provenance.get("versions", {}),
    )
    differences = describe_differences(found, plan.flat_settings)
    raise DrtfError(
        f"{out} already exists and differs from what this command builds: "
        f"{differences}. {CHOICE.capitalize()}"
    )


def check_unchanged(out: Path, plan: BuildPlan) -> None:
    """Check that a dataset is intact, and its photographs are still the same.

    Raises:
        DrtfError: If it is damaged, or a photograph has changed.
    """
    try:
        with ShardDataset(out) as shards:
            changed = find_changed_photograph(shards, plan)
    except RecordError as error:
        raise DrtfError(
            f"{out} was built by this command before, but is damaged: {error}; {CHOICE}"
        ) from error
    if changed:
        raise DrtfError(
            f"{out} was built by this command before, but {changed} has changed since: "
            f"{CHOICE}"
        )
