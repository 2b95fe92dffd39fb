"""What setup.cfg can't say: the reader's loop in C, left out where none compiles."""

import os

from setuptools import Extension, setup

frames = Extension(
    "drtf.records._frames",
    ["drtf/records/_frames.c"],
    extra_compile_args=["-O3", "-pthread", "-g0"],
    py_limited_api=True,
    optional=True,
)
# A wheel without it runs on every machine; make release builds both.
compiled = "DRTF_NO_EXTENSION" not in os.environ
setup(
    ext_modules=[frames] if compiled else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if compiled else {},
)
