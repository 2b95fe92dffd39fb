"""The command group `drtf`, its exit codes, and how it shows errors."""

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
    "run apt-get install libgl1, or replace the package: pip uninstall opencv-python "
    "and pip install opencv-python-headless"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="drtf")
def drtf() -> None:
    """Convert photographs of the retina to TFRecord shards once, and train from them.

    To start, run `drtf demo --out demo`, which runs every step on synthetic
    photographs, or `drtf doctor`, which checks this machine.
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
    """Run a command and exit.

    The exit code is 0 if everything is done, 1 on an error that the user can fix, 2 on
    wrong usage (from click), 3 if some photographs were rejected, and 130 or 143 if
    Ctrl-C or SIGTERM stopped the command after everything was saved.
    """
    # Silence the C++ logs of TensorFlow and OpenCV; drtf reports what users must know.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        drtf(prog_name="drtf")
    except SystemExit as stopped:
        _leave(stopped.code)
    except StoppedError as stopped:
        click.echo(f"Stopped: {stopped}", err=True)
        _leave(128 + stopped.signal)  # the shells' convention
    except DrtfError as error:
        click.echo(f"Error: {error}", err=True)
        _leave(1)
    except OSError as error:  # a full disk, or a folder without write permission
        where = f"{error.filename}: " if error.filename else ""
        advice = "check that it is writable and that the disk has space"
        click.echo(f"Error: {where}{error.strerror or error}; {advice}", err=True)
        _leave(1)
    except ImportError as error:
        if "libGL" not in str(error):
            raise
        click.echo(f"Error: cannot load OpenCV: {error}; {LIBGL_ADVICE}", err=True)
        sys.exit(1)


def _leave(code: str | int | None) -> NoReturn:
    """Exit, without the cleanup that aborts the process once tensorflow-io was used."""
    if has_used_store() and isinstance(code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
