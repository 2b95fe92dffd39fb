"""Presets, one TOML file each: their differences from the defaults in drtf.config."""
