# The CPU image: client, scheduler, service, Ray head, staging workers. From the repository's root:
#   docker build -f deploy/docker/cpu.Dockerfile -t nightbatch:cpu .
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# bubblewrap: the sandbox of `batchjobs eval`. wget: KubeRay's probes. Its start command is a login shell, which would forget this PATH.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends bubblewrap wget libgomp1 libnuma1 \
 && rm -rf /var/lib/apt/lists/* \
 && echo "export PATH=/opt/nightbatch/bin:\$PATH" > /etc/profile.d/nightbatch.sh \
 && useradd --uid 1000 --create-home nightbatch
ENV PATH=/opt/nightbatch/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements-cpu.lock ./
RUN python -m venv /opt/nightbatch \
 && pip install --no-deps --extra-index-url https://download.pytorch.org/whl/cpu -r requirements-cpu.lock
COPY pyproject.toml README.md LICENSE ./
COPY jobs jobs
COPY workers workers
COPY schemas schemas
RUN pip install --no-deps --no-build-isolation .
# Everything that is written lies under /home/nightbatch, /tmp and /dev/shm: mount volumes there and run read-only.
USER 1000:1000
WORKDIR /home/nightbatch
ENV HOME=/home/nightbatch HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
VOLUME ["/home/nightbatch", "/tmp"]
ENTRYPOINT []
CMD ["batchjobs", "--help"]
