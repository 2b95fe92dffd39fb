"""The command group `drtf`, its exit codes, and how it shows errors."""

import atexit
import errno
import os
import resource
import signal
import sys
import warnings

import click

from drtf import __version__
from drtf.errors import DrtfError, StoppedError
from drtf.files import raise_descriptor_limit
from drtf.terminal import keep_interrupts, safe_output, show_line

from .adapt import adapt
from .bench import bench
from .build_shards import build_shards
from .compare import compare
from .demo import demo
from .doctor import doctor
from .ensemble import ensemble
from .evaluate import evaluate
from .export import export
from .fit_gate import fit_gate
from .gradcam import gradcam
from .inspect import inspect
from .recalibrate import recalibrate
from .report_patients import report_patients
from .score import score
from .serve import serve
from .settings import settings
from .sweep import sweep
from .train import train
from .verify import verify

LIBGL_ADVICE = (
    "run apt-get install libgl1, or replace the package: pip uninstall opencv-python "
    "and pip install opencv-python-headless"
)
# Address space, in bytes. Below, NumPy's and TensorFlow's libraries hang or abort.
MIN_ADDRESS_SPACE = 1_000_000_000
LOW_ADDRESS_SPACE = 6_000_000_000
MEMORY_ADVICE = (
    "there is not enough memory; close other programs, or lower build.num_workers, "
    "score.num_workers or train.batch_size (and see ulimit -v)"
)
# How a failed allocation reads where it is not a MemoryError.
OUT_OF_MEMORY = (
    "can't start new thread",
    "Cannot allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "Unable to allocate",
)
FULL_DISK = "free some disk space, and run the same command again"
NOT_WRITABLE = "check its permissions, or choose another folder with --out"
FAILED_DISK = "check the disk or the network, and run the same command again"
MANY_FILES = "allow more open files with ulimit -n"
OS_ADVICE = {
    errno.ENOSPC: FULL_DISK,
    errno.EDQUOT: "the disk quota is used up: " + FULL_DISK,
    errno.EROFS: "choose a folder on another disk with --out",
    errno.EACCES: NOT_WRITABLE,
    errno.EPERM: NOT_WRITABLE,
    errno.EMFILE: MANY_FILES,
    errno.ENFILE: MANY_FILES,
    errno.ENOMEM: MEMORY_ADVICE,
    errno.EIO: FAILED_DISK,
    errno.ESTALE: FAILED_DISK,
    errno.ETIMEDOUT: FAILED_DISK,
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
}
# What Ctrl-C leaves, by command.
SAME_COMMAND = "Completed work is kept: run the same command again to resume"
STARTING_AGAIN = "Run the same command again to start from the beginning"
RESUMING = {
    "build-shards": SAME_COMMAND,
    "report-patients": SAME_COMMAND,
    "score": SAME_COMMAND,
    "sweep": SAME_COMMAND,
    "train": "Run the same command with --resume to continue from the last checkpoint",
}


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
    fit_gate,
    adapt,
    score,
    report_patients,
    serve,
    recalibrate,
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
    wrong usage, 3 if some photographs were rejected, 130 after Ctrl-C, and 129 or 143
    if SIGHUP or SIGTERM stopped a training after everything was saved.
    """
    # Silence the C++ logs of TensorFlow and OpenCV; drtf reports what users must know.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # Whatever Keras is used with elsewhere, drtf needs TensorFlow's.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    # scikit-learn loads joblib, which drtf does not use.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")
    # About tags that break a rule; what drtf cannot read is an error of a photograph.
    warnings.filterwarnings("ignore", module="pydicom")
    raise_descriptor_limit()
    keep_interrupts()
    with safe_output():
        code = _run(sys.argv[1:])
    # Ctrl-C would only interrupt the cleanup of libraries, which shows a traceback.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command, show its error in one line, and return the exit code."""
    command = arguments[0] if arguments else ""
    try:
        _check_memory_limit()
        with drtf.make_context("drtf", list(arguments)) as context:
            drtf.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        _show("Stopped", f"stopped by Ctrl-C. {RESUMING.get(command, STARTING_AGAIN)}")
        return 128 + signal.SIGINT  # the shells' convention
    except StoppedError as stopped:
        _show("Stopped", str(stopped))
        return 128 + stopped.signal
    except DrtfError as error:
        _show("Error", str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _show("Error", f"{where}{error.strerror or error}{_os_advice(error)}")
    except (MemoryError, RuntimeError, ImportError) as error:
        message = _machine_message(error)
        if not message:
            raise
        _show("Error", message)
    else:
        return 0
    return 1


def _check_memory_limit() -> None:
    """Refuse a limit under which libraries hang or abort instead of failing.

    Raises:
        DrtfError: If the limit of `ulimit -v` is below what every command needs.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= LOW_ADDRESS_SPACE:
        return
    text = f"memory is limited to {limit / 1e9:.1f} GB by ulimit -v"
    if limit < MIN_ADDRESS_SPACE:
        raise DrtfError(
            f"{text}; drtf needs at least {MIN_ADDRESS_SPACE / 1e9:.0f} GB, and "
            f"TensorFlow {LOW_ADDRESS_SPACE / 1e9:.0f} GB"
        )
    _show(
        "Warning",
        f"{text}; TensorFlow may crash with less than {LOW_ADDRESS_SPACE / 1e9:.0f} GB",
    )


def _show(kind: str, message: str) -> None:
    show_line(f"{kind}: {message}", err=True)


def _os_advice(error: OSError) -> str:
    advice = OS_ADVICE.get(error.errno or 0, "")
    return f"; {advice}" if advice else ""


def _machine_message(error: Exception) -> str:
    """Return a message about the machine; empty if the error is a bug."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return MEMORY_ADVICE
    if isinstance(error, ImportError) and "libGL" in text:
        return f"cannot load OpenCV: {text}; {LIBGL_ADVICE}"
    return ""
