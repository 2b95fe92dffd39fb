"""Names of the files of a run folder and of an evaluation."""

CONFIG_FILE = "config.toml"
MODEL_FILE = "model.keras"
INFO_FILE = "run.json"
IDENTITY_FILE = "identity.json"
DECISION_RULE_FILE = "decision_rule.json"
QUALITY_GATE_FILE = "quality_gate.json"
METRICS_FILE = "metrics.json"
