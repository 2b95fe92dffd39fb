"""The format on disk: shards, index and manifest. Knows bytes, not images or models."""
