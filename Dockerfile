# drtf serve in a container; see docs/serving.md.
#
#   docker build --tag drtf .
#   docker build --tag drtf:gpu --build-arg TENSORFLOW=tensorflow[and-cuda] .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
# TensorFlow for CPUs; tensorflow[and-cuda] brings CUDA for GPUs.
ARG TENSORFLOW=tensorflow-cpu
# Debian removes a version when it publishes the next one, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# The image needs no display, so OpenCV comes without one. drtf itself names
# opencv-python and tensorflow; what it needs is installed here under other names.
RUN python -m venv /opt/drtf \
    && sed 's/^opencv-python==/opencv-python-headless==/; s/^tensorflow-io.*//' \
        constraints.txt > /tmp/constraints.txt \
    && sed -n 's/^tensorflow==/tensorflow-cpu==/p' constraints.txt \
        >> /tmp/constraints.txt \
    && python docker/requirements.py "${TENSORFLOW}" > /tmp/requirements.txt \
    && /opt/drtf/bin/pip install --no-cache-dir --constraint /tmp/constraints.txt \
        --requirement /tmp/requirements.txt \
    && /opt/drtf/bin/pip install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim-bookworm
RUN useradd --create-home --uid 10001 drtf
COPY --from=build /opt/drtf /opt/drtf
ENV PATH=/opt/drtf/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/drtf
EXPOSE 8000
# The model is loaded before the service listens.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# The run folder is mounted at /run-folder, and may be read-only.
ENTRYPOINT ["drtf", "serve", "/run-folder", "--host", "0.0.0.0", "--port", "8000"]
