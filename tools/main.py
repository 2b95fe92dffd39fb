"""The command group `drtf`, and how its errors are shown."""

import os
import sys
from typing import NoReturn

import click

from drtf import __version__
from drtf.errors import DrtfError, StoppedError
from drtf.storage import has_used_store

from .bench import bench
from .build_shards import build_shards
from .compare import compare
from .demo import demo
from .doctor import doctor
from .ensemble import ensemble
from .evaluate import evaluate
from .export import export
from .gradcam import gradcam
from .inspect import inspect
from .score import score
from .settings import settings
from .sweep import sweep
from .train import train
from .verify import verify

LIBGL_ADVICE = (
    "apt-get install libgl1, or pip uninstall opencv-python and "
    "pip install opencv-python-headless, the same module without it"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="drtf")
def drtf() -> None:
    """Turn photographs of the retina into shards, once, and train from them.

    Start with `drtf demo --out demo`, which does the whole job on drawn photographs,
    or with `drtf doctor`, which tells what this machine offers.
    """


for command in (
    build_shards,
    inspect,
    verify,
    train,
    evaluate,
    compare,
    ensemble,
    score,
    gradcam,
    export,
    demo,
    sweep,
    settings,
    bench,
    doctor,
):
    drtf.add_command(command)


def main() -> None:
    """Run a command: exit 0 if all is done, 1 on an error that the user can mend.

    Wrong usage exits 2, as click does; 3 means done, with photographs set aside; 130
    and 143 mean stopped by Ctrl-C and SIGTERM, with all saved.
    """
    # Their C++ speaks on stderr, of each damaged photograph for one; what a user must
    # know is said by us.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        drtf(prog_name="drtf")
    except SystemExit as stopped:
        _leave(stopped.code)
    except StoppedError as stopped:
        click.echo(f"Stopped: {stopped}", err=True)
        _leave(128 + stopped.signal)  # as a shell has it
    except DrtfError as error:
        click.echo(f"Error: {error}", err=True)
        _leave(1)
    except OSError as error:  # a full disk, or a folder that may not be written to
        where = f"{error.filename}: " if error.filename else ""
        advice = "can it be written to, and has the disk room?"
        click.echo(f"Error: {where}{error.strerror or error}; {advice}", err=True)
        _leave(1)
    except ImportError as error:
        if "libGL" not in str(error):
            raise
        click.echo(f"Error: OpenCV can't be loaded: {error}; {LIBGL_ADVICE}", err=True)
        sys.exit(1)


def _leave(code: str | int | None) -> NoReturn:
    """Exit; at once where tensorflow-io would abort the process on its way out."""
    if has_used_store() and isinstance(code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
