"""Benchmarks that compare drtf with alternatives, and sweeps over configs."""
