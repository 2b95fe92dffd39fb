"""Train a network on a dataset and write a run folder."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from drtf.cluster import Cluster, wait_for_hosts
from drtf.config import Config, TrainConfig
from drtf.data.stream import translate_record_errors
from drtf.errors import DrtfError
from drtf.figures import plot_history
from drtf.files import hash_file
from drtf.labels.soft_labels import SoftLabels, load_soft_labels
from drtf.locks import lock_or_fail
from drtf.models.backbones import check_model
from drtf.models.device import (
    build_strategy,
    choose_compiler,
    choose_devices,
    choose_precision,
    training_versions,
    translate_exhaustion,
    use_dtype_policy,
)
from drtf.models.history import HISTORY_FIGURE, HISTORY_FILE
from drtf.models.network import count_parameters
from drtf.models.run import (
    CONFIG_FILE,
    INFO_FILE,
    MODEL_FILE,
    Distillation,
    RunInfo,
    check_files,
    load_info,
    save_config,
    save_info,
)
from drtf.models.run_files import IDENTITY_FILE
from drtf.models.stored_run import upload_changes
from drtf.models.training_photographs import (
    PHOTOGRAPHS_FILE,
    save_training_photographs,
)
from drtf.progress import announce
from drtf.records.manifest import hash_manifest
from drtf.records.reader import ShardDataset
from drtf.signals import catch_signals
from drtf.training.checkpoint import (
    Checkpoint,
    encode_checkpoint,
    load_newest_checkpoint,
    parse_checkpoint,
)
from drtf.training.context import build_context
from drtf.training.hosts import Hosts, translate_lost_hosts
from drtf.training.identity import (
    check_identity,
    check_out,
    save_identity,
    training_identity,
)
from drtf.training.loop import run_epochs
from drtf.training.parent import (
    Parent,
    adopt_network,
    build_initial_network,
    describe_start,
    load_parent,
    warn_of_parent,
)
from drtf.training.train_plan import adopt_settings, positive_prior


def train(
    shards: Path,
    *,
    out: Path,
    config: Config,
    table: Path | None = None,
    resume: bool = False,
    cluster: Cluster | None = None,
) -> RunInfo:
    """Train a network on a dataset and write a run folder.

    The folder has the model of the best epoch. The sections of the config that shape a
    dataset (such as `images`) are replaced by those that the dataset was built with.

    Args:
        shards: The dataset's folder.
        out: The run folder to write.
        config: Its sections `sampling`, `augment`, `model` and `train` are used.
        table: A table with the column `train.soft_labels`, one row per photograph, if
            the dataset does not have it.
        resume: Continue from the newest intact checkpoint in `out`, if there is one. A
            finished training is left as it is.
        cluster: The hosts that train together; None if there is only this one. All of
            them must call this before TensorFlow has run anything. Only host 0 reads
            and writes `out`.

    Returns:
        The contents of run.json.

    Raises:
        StoppedError: If a signal stopped the training; everything is saved.
        DrtfError: If `out` exists, the dataset has no photographs of a split or class,
            the pretrained weights cannot be loaded, the loss becomes non-finite, or
            another host does not start or has ended.
    """
    out = out.resolve()
    is_first = cluster is None or cluster.index == 0
    if is_first:
        check_out(out, resume=resume)
    is_resumed = is_first and resume and (out / IDENTITY_FILE).exists()
    parent = load_parent(config.model.weights, resumed=out if is_resumed else None)
    config = adopt_network(config, parent)
    check_model(config.model, head_epochs=config.train.head_epochs)
    with ShardDataset(shards) as dataset:
        config = adopt_settings(config, dataset)
        precision = choose_precision(config.train.precision)
        devices = choose_devices(
            config.train.num_devices,
            batch_size=config.train.batch_size,
            cluster=cluster,
        )
        num_hosts = cluster.num_hosts if cluster else 1
        num_devices = num_hosts * len(devices)
        # Refuse a bad combination before anything is written.
        choose_compiler(config.train.jit_compile, num_devices=num_devices)
        soft_labels = load_soft_labels(dataset, config.train, table)
        identity = training_identity(
            config,
            precision=precision,
            num_devices=num_devices,
            num_hosts=num_hosts,
            dataset_sha256=hash_manifest(shards),
            ancestors=parent.ancestors if parent else (),
            targets_sha256=soft_labels.sha256 if soft_labels else "",
        )
        info = None
        if is_resumed:
            check_identity(out, identity)
        if is_first and (out / INFO_FILE).exists():
            info = load_info(out)
            check_files(out, info)
        if info and not cluster:
            return info
        warn_of_parent(parent, config, dataset)
        dataset.check_fits_cache("train", config.sampling.window_shards)
        train_prior = positive_prior(
            dataset,
            sampling=config.sampling,
            augment=config.augment,
            train=config.train,
            soft_labels=soft_labels,
        )
        with (
            _lock_run(out) if is_first else nullcontext(),
            translate_record_errors(),
            translate_lost_hosts(cluster),
        ):
            if cluster:
                wait_for_hosts(cluster, {**identity, **_library_versions()})
            with (
                build_strategy(devices, cluster=cluster).scope(),
                catch_signals() as signals,
            ):
                hosts = Hosts(cluster)
                finished = hosts.share(info.model_dump(mode="json") if info else None)
                if finished:
                    return RunInfo(**finished)
                job = _Job(config, parent, soft_labels, identity, train_prior)
                return _train_locked(dataset, out, job, hosts=hosts, signals=signals)


def _lock_run(out: Path) -> AbstractContextManager[None]:
    """Lock a run folder that may not exist yet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # Next to the folder: a training run that fails to start leaves no folder.
    return lock_or_fail(out.with_name(f".{out.name}.lock"))


def _library_versions() -> dict[str, str]:
    """Return the versions of the libraries that must be equal on all hosts."""
    versions = training_versions()
    return {name: versions[name] for name in ("drtf", "keras", "tensorflow")}


def _load_shared_checkpoint(out: Path, hosts: Hosts) -> Checkpoint | None:
    """Load host 0's newest checkpoint on all hosts."""
    checkpoint = load_newest_checkpoint(out) if hosts.is_first else None
    if hosts.num_hosts == 1:
        return checkpoint
    data = b""
    if checkpoint:
        data = encode_checkpoint(replace(checkpoint, model=b""))
    data = hosts.share_bytes(data)
    if hosts.is_first or not data:
        return checkpoint
    return parse_checkpoint(data)


@dataclass(frozen=True)
class _Job:
    """The fixed inputs of a training run.

    Attributes:
        config: With the settings of the dataset and of the parent's network.
        parent: The run that it starts from, if any.
        soft_labels: The targets, if they are not the labels.
        identity: What a resumed run must have in common with this one.
        train_prior: Fraction of positive images that the network sees.
    """

    config: Config
    parent: Parent | None
    soft_labels: SoftLabels | None
    identity: dict[str, Any]
    train_prior: float


def _train_locked(
    shards: ShardDataset,
    out: Path,
    job: _Job,
    *,
    hosts: Hosts,
    signals: Sequence[signal.Signals],
) -> RunInfo:
    """Train while the run folder is locked."""
    config = job.config
    checkpoint = _load_shared_checkpoint(out, hosts)
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    with use_dtype_policy(job.identity["precision"]):
        network = build_initial_network(
            config, job.parent, load_weights=checkpoint is None
        )
        num_trained, num_frozen = count_parameters(network)
        if hosts.is_first:
            _begin_run(out, shards, job, is_new=checkpoint is None)
        with (
            translate_exhaustion("train.batch_size", config.train.batch_size),
            _translate_full_disk(out),
        ):
            context = build_context(
                network,
                shards,
                config=config,
                soft_labels=job.soft_labels,
                out=out,
                hosts=hosts,
            )
            status = run_epochs(context, checkpoint=checkpoint, signals=signals)
    if not hosts.is_first:
        return RunInfo(**hosts.share(None))
    plot_history(out / HISTORY_FIGURE, status.history)
    manifest = shards.manifest
    info = RunInfo(
        dataset_name=manifest.name,
        dataset_sha256=hash_manifest(shards.folder),
        encoding=manifest.encoding,
        jpeg_quality=config.build.jpeg_quality,
        image_size=config.images.size,
        train_prior=job.train_prior,
        model_sha256=hash_file(out / MODEL_FILE),
        config_sha256=hash_file(out / CONFIG_FILE),
        history_sha256=hash_file(out / HISTORY_FILE),
        photographs_sha256=hash_file(out / PHOTOGRAPHS_FILE),
        best_epoch=context.best_model.best_epoch,
        num_epochs=len(status.history),
        num_trained=num_trained,
        num_frozen=num_frozen,
        num_damaged=len(shards.damaged),
        num_skipped_steps=np.asarray(context.trainer.num_skipped).item(),
        precision=job.identity["precision"],
        num_devices=job.identity["num_devices"],
        num_hosts=hosts.num_hosts,
        seconds=sum(row["seconds"] for row in status.history),
        peak_memory_mb=getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        versions=training_versions(),
        ancestors=job.parent.ancestors if job.parent else (),
        distillation=_describe_distillation(job.soft_labels, config.train),
    )
    save_info(out, info)
    hosts.share(info.model_dump(mode="json"))
    return info


def _begin_run(out: Path, shards: ShardDataset, job: _Job, *, is_new: bool) -> None:
    """Announce how the training starts, and write the first files of the run folder."""
    start = describe_start(job.parent, job.config)
    if start and is_new:
        announce(start)
    if job.soft_labels:
        announce(job.soft_labels.describe(job.config.train))
    out.mkdir(exist_ok=True)
    save_identity(out, job.identity)
    save_config(out, job.config)
    parent_run = job.parent.run if job.parent else None
    if job.parent is None or parent_run:
        save_training_photographs(
            out,
            shards,
            validation_split=job.config.train.validation_split,
            parent=parent_run.folder if parent_run else None,
        )
    upload_changes(out)  # a store that cannot be written to fails here
    announce("Compiling the training step; the first one takes longer than the others")


def _describe_distillation(
    soft_labels: SoftLabels | None, config: TrainConfig
) -> Distillation | None:
    if soft_labels is None:
        return None
    return Distillation(
        column=config.soft_labels,
        weight=config.soft_weight,
        num_photographs=soft_labels.num_given,
        targets_sha256=soft_labels.sha256,
    )


@contextmanager
def _translate_full_disk(out: Path) -> Iterator[None]:
    """Turn TensorFlow's error about a full disk, which TensorBoard meets, into ours."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" not in str(error):
            raise
        raise DrtfError(
            f"cannot write to {out}: the disk is full. Free disk space and run the "
            "same command with --resume"
        ) from error
