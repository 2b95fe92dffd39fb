"""Names of the files that every run folder has. Does not load TensorFlow."""

CONFIG_FILE = "config.toml"
MODEL_FILE = "model.keras"
INFO_FILE = "run.json"
