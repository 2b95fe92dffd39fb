"""The format on disk: bytes in, bytes out; no images and no models."""
