# The image of GPU workers. Python and Ray have the versions of the head's image, or Ray refuses to join them. From the root:
#   docker build -f deploy/docker/gpu.Dockerfile -t nightbatch:gpu .
# The head of a cluster with GPU workers runs this image too: `batchjobs doctor` compares the versions.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# gcc and python3-dev: Triton compiles its launchers at run time. bubblewrap: the sandbox of `batchjobs eval`. wget: KubeRay's
# probes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3.12-venv python3.12-dev bubblewrap gcc libc6-dev libnuma1 wget \
 && rm -rf /var/lib/apt/lists/* \
 && echo "export PATH=/opt/nightbatch/bin:\$PATH" > /etc/profile.d/nightbatch.sh \
 && { userdel --remove ubuntu 2>/dev/null || true; } \
 && useradd --uid 1000 --create-home nightbatch
ENV PATH=/opt/nightbatch/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements-gpu.lock ./
RUN python3.12 -m venv /opt/nightbatch \
 && pip install --no-deps -r requirements-gpu.lock
COPY pyproject.toml README.md LICENSE ./
COPY jobs jobs
COPY workers workers
COPY schemas schemas
RUN pip install --no-deps --no-build-isolation .
USER 1000:1000
WORKDIR /home/nightbatch
# Compiled kernels and graphs are kept below HOME, which is a volume.
ENV HOME=/home/nightbatch HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1 \
    VLLM_CACHE_ROOT=/home/nightbatch/.cache/vllm TRITON_CACHE_DIR=/home/nightbatch/.cache/triton
VOLUME ["/home/nightbatch", "/tmp"]
ENTRYPOINT []
CMD ["batchjobs", "--help"]
