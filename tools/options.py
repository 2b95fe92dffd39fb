"""Options that several commands share, and the exit code for photographs set aside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from drtf.storage import is_remote

SOME_SET_ASIDE = 3

Command = Callable[..., Any]


def config_options(command: Command) -> Command:
    """Add --config and --set."""
    command = click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override one setting, such as train.epochs=5; may be repeated.",
    )(command)
    return click.option(
        "--config",
        "config_source",
        metavar="NAME|FILE",
        default="",
        help="A preset (mobilenetv2-96, mobilenetv2-224, notebook-96, "
        "eyenet-256, demo) or a TOML file; without it a RUN's own settings hold, where "
        "the command takes one, and else the defaults.",
    )(command)


class LocalPath(click.Path):
    """A local path; an s3:// one is refused, not taken for a strange folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the path."""
        if is_remote(value):
            self.fail(f"{value} must be a local path", param, ctx)
        return super().convert(value, param, ctx)


class AnyPath(LocalPath):
    """A local path, or an s3:// location, which stays a str."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the path or the location."""
        return value if is_remote(value) else super().convert(value, param, ctx)


class SetPath(LocalPath):
    """The folder of a set; one in a store is fetched into the cache first."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the local folder."""
        if not is_remote(value):
            return super().convert(value, param, ctx)
        from drtf.records.remote import fetch_dataset

        return fetch_dataset(value)


overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace what an earlier call wrote to --out."
)


def path_option(
    name: str, help_text: str, *, required: bool = True, kind: click.Path | None = None
) -> Any:
    """Add an option that takes a path; the library says what is wrong with it."""
    return click.option(
        name, type=kind or LocalPath(), required=required, help=help_text
    )


def out_option(help_text: str, *, kind: click.Path | None = None) -> Any:
    """Add a required --out, by default a local path."""
    return path_option("--out", help_text, kind=kind)


def images_option(help_text: str, *, required: bool = True) -> Any:
    """Add --images: a folder, local or s3://, or a CSV that lists photographs."""
    return path_option("--images", help_text, required=required, kind=AnyPath())


def shards_option(help_text: str, *, required: bool = True) -> Any:
    """Add --shards: a set, local or s3://."""
    return path_option("--shards", help_text, required=required, kind=SetPath())
