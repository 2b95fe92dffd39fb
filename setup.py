"""What setup.cfg can't say: the reader's loop in C, left out where none compiles."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "drtf.records._frames",
            ["drtf/records/_frames.c"],
            extra_compile_args=["-O3", "-pthread"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
