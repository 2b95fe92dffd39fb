from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import keras
import numpy as np
import pytest
import tensorflow as tf

from drtf.config import SamplingConfig, TrainConfig, load_config
from drtf.data.examples import count_examples
from drtf.data.pipeline import StreamPosition, train_dataset
from drtf.data.sampling import count_draws
from drtf.errors import DrtfError
from drtf.models.device import build_strategy, choose_devices, use_dtype_policy
from drtf.models.network import build_network
from drtf.tasks import TASKS
from drtf.training.run import train
from drtf.training.trainer import Trainer, build_optimizer, build_schedule
from naming import raises_naming

SETTINGS = ("model.name=eyenet", "model.weights=none", "train.batch_size=8")


def build_trainer(*overrides, policy="float32", num_steps=100):
    keras.utils.set_random_seed(1)
    config = load_config("", [*SETTINGS, *overrides])
    with use_dtype_policy(policy):
        network = build_network(
            config.model,
            image_size=32,
            load_weights=False,
            task=TASKS[config.train.task],
            loss=config.train.loss,
        )
        return Trainer(
            network,
            augment=config.augment,
            model=config.model,
            train=config.train,
            num_steps=num_steps,
        )


def stream(shard_dataset, task="binary", batch_size=8, epochs=1):
    dataset = train_dataset(
        shard_dataset,
        task=task,
        batch_size=batch_size,
        epochs=epochs,
        start=StreamPosition(0),
        timed=True,
    )
    return iter(dataset)


def run(trainer, batches, num_steps):
    return trainer.execute_steps(batches, tf.constant(num_steps, tf.int32))


def flat_weights(trainer):
    return np.concatenate([x.ravel() for x in trainer.network.get_weights()])


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("binary", "crossentropy"),
        ("referable", "crossentropy"),
        ("grades", "crossentropy"),
        ("grades", "mse"),
        ("grades", "coral"),
    ],
)
def test_training_lowers_the_loss(shard_dataset, task, loss):
    trainer = build_trainer(
        f"train.task={task}",
        f"train.loss={loss}",
        "train.learning_rate=2e-3",
        "train.schedule=constant",
        "augment.max_degrees=0",
        "augment.zoom=0",
        "augment.contrast=0",
    )
    batches = stream(shard_dataset, task, batch_size=16, epochs=99)
    run(trainer, batches, 60)
    early = trainer.get_metrics_result()
    trainer.reset_metrics()
    run(trainer, batches, 20)
    late = trainer.get_metrics_result()
    assert late["loss"] < early["loss"]
    name, minimum = ("accuracy", 0.4) if task == "grades" else ("roc_auc", 0.8)
    assert late[name] > minimum


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_the_loss_of_a_mixed_image_is_that_of_both_labels(shard_dataset, policy):
    weights = (1.0, 3.0)
    trainer = build_trainer(
        "augment.mixup=0.7",
        "augment.cutmix=1",
        "train.class_weights=[1,3]",
        policy=policy,
    )
    dataset = train_dataset(
        shard_dataset, batch_size=8, epochs=1, partners=SamplingConfig(), timed=True
    )
    batch = next(iter(dataset))
    images, fractions = trainer.augment_batch(batch)
    assert 0 < fractions.numpy().min() < fractions.numpy().max() < 1
    logits = trainer(images).numpy()[:, 0].astype(np.float64)
    expected = 0.0
    for name, parts in (("label", 1 - fractions), ("partner_label", fractions)):
        labels = batch[name].numpy()
        losses = np.logaddexp(0, np.where(labels, -logits, logits))
        expected += np.mean(parts * np.array(weights)[labels] * losses)
    run(trainer, iter(tf.data.Dataset.from_tensors(batch)), 1)
    loss = float(trainer.get_metrics_result()["loss"])
    assert loss == pytest.approx(expected, rel=1e-5 if policy == "float32" else 1e-2)


@pytest.mark.parametrize("loss", ["crossentropy", "focal"])
def test_the_loss_of_a_soft_target_is_the_mean_of_those_of_both_labels(
    shard_dataset, loss
):
    trainer = build_trainer(
        "augment.mixup=0.7", "train.class_weights=[1,3]", f"train.loss={loss}"
    )
    num_photographs = len(shard_dataset.split_rows("train"))
    dataset = train_dataset(
        shard_dataset,
        batch_size=8,
        partners=SamplingConfig(),
        targets=np.random.default_rng(0).random(num_photographs, np.float32),
        timed=True,
    )
    batch = next(iter(dataset))
    images, fractions = trainer.augment_batch(batch)
    logits = trainer(images)
    ones = np.ones((8, 1), np.int64)
    negative, positive = (trainer.task_loss.call(x, logits) for x in (0 * ones, ones))
    target = (1 - fractions) * batch["target"] + fractions * batch["partner_target"]
    expected = np.mean((1 - target) * negative + target * positive)
    run(trainer, iter(tf.data.Dataset.from_tensors(batch)), 1)
    loss = float(trainer.get_metrics_result()["loss"])
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_weights_and_output_are_float32_with_mixed_precision(shard_dataset, policy):
    trainer = build_trainer(policy=policy)
    before = flat_weights(trainer)
    run(trainer, stream(shard_dataset), 4)
    network = trainer.network
    assert np.isfinite(float(trainer.get_metrics_result()["loss"]))
    assert network.get_layer("conv_1").compute_dtype == policy.removeprefix("mixed_")
    assert network.output.dtype == "float32"
    assert all(weight.dtype == np.float32 for weight in network.get_weights())
    assert (flat_weights(trainer) != before).any()


def test_float16_skips_steps_with_non_finite_gradients(shard_dataset):
    trainer = build_trainer("train.max_skipped_steps=3", policy="mixed_float16")
    before = flat_weights(trainer)
    trainer.optimizer.dynamic_scale.assign(float("inf"))
    num_done, _, failed = run(trainer, stream(shard_dataset, epochs=9), 3)
    assert (int(num_done), bool(failed)) == (3, False)
    assert int(trainer.num_skipped) == int(trainer.num_consecutive_skips) == 3
    assert (flat_weights(trainer) == before).all()
    trainer.optimizer.dynamic_scale.assign(2.0)
    run(trainer, stream(shard_dataset), 1)
    assert (int(trainer.num_skipped), int(trainer.num_consecutive_skips)) == (3, 0)
    assert (flat_weights(trainer) != before).any()
    trainer.optimizer.dynamic_scale.assign(float("inf"))
    num_done, _, failed = run(trainer, stream(shard_dataset, epochs=9), 9)
    assert (int(num_done), bool(failed)) == (4, True)


def test_a_step_skipped_in_float16_changes_nothing(shard_dataset, tiny):
    settings = ("model.name=tiny", "train.ema_momentum=0.9")
    trainer = build_trainer(*settings, policy="mixed_float16")
    trainer.optimizer.dynamic_scale.assign(2.0)
    batches = stream(shard_dataset, epochs=9)
    augment = trainer.augment
    trainer.augment = lambda images, *rest: tf.where(
        trainer.num_updates + trainer.num_skipped == 1, np.inf, augment(images, *rest)
    )
    run(trainer, batches, 1)
    before = flat_weights(trainer)
    loss = float(trainer.get_metrics_result()["loss"])
    run(trainer, batches, 1)
    assert (int(trainer.num_updates), int(trainer.num_skipped)) == (1, 1)
    assert (flat_weights(trainer) == before).all()
    assert float(trainer.get_metrics_result()["loss"]) == loss
    run(trainer, batches, 1)
    assert (int(trainer.num_updates), int(trainer.num_consecutive_skips)) == (2, 0)
    for variable in trainer.state_variables():
        assert np.isfinite(np.asarray(variable)).all(), variable.path


def test_steps_end_when_the_loss_becomes_non_finite(shard_dataset):
    trainer = build_trainer()
    batches = stream(shard_dataset, epochs=9)
    assert not run(trainer, batches, 2)[2]
    trainer.network.get_layer("class_logits").bias.assign(np.full(2, np.nan))
    num_done, _, failed = run(trainer, batches, 5)
    assert (int(num_done), bool(failed)) == (1, True)


def test_the_result_does_not_depend_on_the_steps_per_execution(shard_dataset):
    results = []
    for sizes in ((1, 1, 1, 1, 1, 1), (6,), (2, 4)):
        trainer = build_trainer()
        batches = stream(shard_dataset, epochs=9)
        for size in sizes:
            run(trainer, batches, size)
        results.append(flat_weights(trainer))
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


def count_operations(name, functions):
    """Count the operations of a function and of the functions that it calls."""
    counts = Counter()
    for node in functions[name].node_def:
        counts[node.op] += 1
        for attribute in node.attr.values():
            if attribute.func.name:
                counts += count_operations(attribute.func.name, functions)
    return counts


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_steps_wait_for_the_device_only_at_their_end(shard_dataset, policy):
    trainer = build_trainer(policy=policy)
    graph = trainer.execute_steps.get_concrete_function(
        stream(shard_dataset), tf.TensorSpec([], tf.int32)
    ).graph.as_graph_def()
    functions = {x.signature.name: x for x in graph.library.function}
    (loop,) = (node for node in graph.node if node.op == "While")
    # The condition takes only int32, which GPUs compare on the host.
    name = loop.attr["cond"].func.name
    assert count_operations(name, functions) == {"Less": 1, "Identity": 1}
    (less,) = (node for node in functions[name].node_def if node.op == "Less")
    assert less.attr["T"].type == tf.int32
    # No branch waits for its condition. Only one call of Python takes a value from the
    # device, the clock, and only the sum of the waiting time takes its result.
    counts = count_operations(loop.attr["body"].func.name, functions)
    assert counts["PyFuncStateless"] == 1
    branches = ("If", "StatelessIf", "Case", "While", "StatelessWhile", "Assert")
    assert not counts.keys() & {*branches, "PyFunc", "EagerPyFunc"}


def test_xla_compiles_the_whole_step(shard_dataset):
    plain, compiled = build_trainer(), build_trainer("train.jit_compile=true")
    for trainer in (plain, compiled):
        run(trainer, stream(shard_dataset), 3)
    assert flat_weights(compiled) == pytest.approx(flat_weights(plain), abs=2e-4)


def test_only_the_head_is_trained_during_head_epochs(shard_dataset, tiny):
    settings = ("model.name=tiny", "train.head_epochs=2")
    trainer = build_trainer(*settings)
    batches = stream(shard_dataset, epochs=9)
    expected = [False, False, True]
    for epoch, changes in enumerate(expected):
        stem = trainer.network.get_layer("conv").kernel.numpy()
        statistics = trainer.network.get_layer("norm").moving_mean.numpy()
        head = trainer.network.get_layer("logits").kernel.numpy()
        trainer.begin_epoch(epoch)
        run(trainer, batches, 1)
        now = trainer.network.get_layer("conv").kernel.numpy()
        assert (now != stem).any() == changes
        now = trainer.network.get_layer("norm").moving_mean.numpy()
        assert (now != statistics).any() == changes
        assert (trainer.network.get_layer("logits").kernel.numpy() != head).any()
    # The optimizer starts again with all weights, and the schedule continues.
    assert int(trainer.optimizer.iterations) == 1
    assert int(trainer.num_updates) == 3
    # Only once: a resumed training keeps the state of its optimizer.
    before = [np.array(variable) for variable in trainer.state_variables()]
    resumed = build_trainer(*settings)
    for variable, value in zip(resumed.state_variables(), before, strict=True):
        variable.assign(value)
    resumed.begin_epoch(2)
    for variable, value in zip(resumed.state_variables(), before, strict=True):
        assert (np.asarray(variable) == value).all()


def test_the_average_follows_its_formula(shard_dataset):
    trainer = build_trainer("train.ema_momentum=0.9")
    batches = stream(shard_dataset, epochs=9)
    expected = flat_weights(trainer)
    for number in range(1, 4):
        run(trainer, batches, 1)
        momentum = min(0.9, (1 + number) / (10 + number))
        expected = momentum * expected + (1 - momentum) * flat_weights(trainer)
    weights = flat_weights(trainer)
    with trainer.use_averaged_weights():
        assert flat_weights(trainer) == pytest.approx(expected, abs=1e-6)
        assert (flat_weights(trainer) != weights).any()
    assert (flat_weights(trainer) == weights).all()


def test_averaged_keeps_the_weights_when_there_is_no_average(shard_dataset):
    trainer = build_trainer()
    before = flat_weights(trainer)
    with trainer.use_averaged_weights():
        assert (flat_weights(trainer) == before).all()


def divide_cpu():
    """Make two devices of the CPU, before TensorFlow uses it."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)


@pytest.fixture(scope="module")
def two_devices():
    """A process with two devices, which the tests share because it starts slowly."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=divide_cpu
    ) as process:
        yield process


def train_on(num_devices, shards, out, settings):
    config = load_config("", [*settings, f"train.num_devices={num_devices}"])
    assert train(shards, out=out, config=config).num_devices == num_devices


def check_that_all_skip(bad_replica):
    """Train on two devices, of which one has an infinite loss in the first step."""
    config = load_config("eyenet-256", ["images.size=32"])
    strategy = build_strategy(choose_devices(2, batch_size=2))
    images = tf.random.stateless_uniform((4, 32, 32, 3), (1, 2), 0, 256, tf.int32)
    batch = {
        "image": tf.cast(images, tf.uint8),
        "seed": tf.zeros((4, 2), tf.int32),
        "label": tf.constant([0, 1, 0, 1], tf.int64),
        "loaded": tf.zeros([], tf.float64),
    }
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    with strategy.scope(), use_dtype_policy("mixed_float16"):
        network = build_network(config.model, image_size=32, load_weights=False)
        trainer = Trainer(
            network,
            augment=config.augment,
            model=config.model,
            train=config.train,
            num_steps=9,
        )
    work = trainer.task_loss.call

    def overflow(labels, logits):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        bad = (replica == bad_replica) & (trainer.num_skipped + 0 == 0)
        return work(labels, logits) * tf.where(bad, np.inf, 1.0)

    trainer.task_loss.call = overflow
    batches = iter(strategy.distribute_datasets_from_function(lambda context: dataset))
    before = network.get_weights()
    for number in range(2):
        trainer.execute_steps(batches, tf.constant(1, tf.int32))
        after = network.get_weights()
        same = [(x == y).all() for x, y in zip(before, after, strict=True)]
        assert all(same) if number == 0 else not any(same)
        assert all(np.isfinite(x).all() for x in after)
    state = (trainer.num_skipped, trainer.num_updates, trainer.optimizer.dynamic_scale)
    assert [np.asarray(x).item() for x in state] == [1, 1, 2**14]


@pytest.mark.parametrize("bad_replica", [0, 1])
def test_all_devices_skip_a_step_that_one_must_skip(two_devices, bad_replica):
    two_devices.submit(check_that_all_skip, bad_replica).result()


def test_the_photographs_of_all_devices_are_listed_when_a_step_fails(
    two_devices, shards, shard_dataset, tmp_path
):
    counts = count_examples(shard_dataset, "train", "binary")
    num_drawn = sum(count_draws(counts, SamplingConfig()))
    # One photograph is left over, too few for two devices: it is merged into the step.
    batch = f"train.batch_size={num_drawn - 1}"
    settings = (*SETTINGS, batch, "train.learning_rate=1e30")
    out = tmp_path / "run"
    path = out / "failed_batch.csv"
    with raises_naming(DrtfError, path, "train.learning_rate"):
        two_devices.submit(train_on, 2, shards, out, settings).result()
    ids = path.read_text().splitlines()
    assert len(ids) == 1 + num_drawn


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        (("model.name=eyenet", "model.weights=none", "train.batch_size=7"), 1e-4),
        # Batch normalization must be synchronized as well; tracing that takes a minute.
        # A deep network of random weights amplifies the last bit, so this is one step.
        pytest.param(
            ("model.alpha=0.35", "model.dropout=0", "train.batch_size=99"),
            1e-2,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_devices_give_the_result_of_one(
    two_devices, shards, tmp_path, changes, tolerance
):
    settings = (
        *changes,
        "model.weights=none",
        "train.epochs=1",
        "train.optimizer=sgd",
        "train.learning_rate=0.01",
        "train.ema_momentum=0.5",
        "augment.mixup=0.4",
        "augment.cutmix=1",
    )
    weights, metrics = [], []
    for num_devices in (1, 2):
        out = tmp_path / str(num_devices)
        two_devices.submit(train_on, num_devices, shards, out, settings).result()
        model = keras.saving.load_model(out / "model.keras", compile=False)
        weights.append(np.concatenate([x.ravel() for x in model.get_weights()]))
        rows = np.genfromtxt(out / "history.csv", delimiter=",", names=True)
        metrics.append(np.array([rows["loss"], rows["val_loss"], rows["val_roc_auc"]]))
    assert weights[1] == pytest.approx(weights[0], abs=tolerance)
    assert metrics[1] == pytest.approx(metrics[0], abs=tolerance)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("adam", {}), ("adamw", {"weight_decay": 0.25}), ("sgd", {"momentum": 0.5})],
)
def test_the_optimizer_is_the_one_in_the_config(name, settings):
    config = TrainConfig(optimizer=name, **settings)
    optimizer = build_optimizer(config, precision="float32")
    assert type(optimizer).__name__.lower() == name
    for attribute, value in settings.items():
        assert getattr(optimizer, attribute) == value


def test_the_loss_is_scaled_only_in_float16():
    config = TrainConfig(learning_rate=0.1)
    scaled = build_optimizer(config, precision="mixed_float16")
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
    scaled.learning_rate = 0.025
    assert float(scaled.inner_optimizer.learning_rate) == pytest.approx(0.025)
    for precision in ("float32", "mixed_bfloat16"):
        plain = build_optimizer(config, precision=precision)
        assert not isinstance(plain, keras.optimizers.LossScaleOptimizer)


def test_the_learning_rate_rises_and_then_falls_with_schedule_cosine():
    config = TrainConfig(schedule="cosine", learning_rate=0.1, warmup_fraction=0.1)
    schedule = build_schedule(config, num_steps=100)
    rates = [float(schedule(step)) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert rates[99] < 1e-4
    assert sorted(rates[:11]) == rates[:11]
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_the_first_step_has_the_full_rate_without_warm_up():
    config = TrainConfig(schedule="cosine", learning_rate=0.1, warmup_fraction=0)
    schedule = build_schedule(config, num_steps=10)
    assert float(schedule(0)) == pytest.approx(0.1)


def test_a_step_uses_the_rate_of_the_schedule(shard_dataset):
    settings = "train.learning_rate=0.1", "train.schedule=cosine"
    trainer = build_trainer(*settings, num_steps=10)
    batches = stream(shard_dataset, epochs=9)
    config = TrainConfig(learning_rate=0.1, schedule="cosine")
    schedule = build_schedule(config, num_steps=10)
    for step in range(3):
        run(trainer, batches, 1)
        rate = float(trainer.optimizer.learning_rate)
        assert rate == pytest.approx(float(schedule(step)))


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_there_is_no_planned_rate_with_other_schedules(schedule):
    assert build_schedule(TrainConfig(schedule=schedule), num_steps=10) is None
