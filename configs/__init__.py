"""Presets: short differences from the defaults in drtf.config, one TOML file each."""
