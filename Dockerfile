# Untried: linted with hadolint, but never built. `docker build --build-arg BASE=... -t acto .`
# BASE is any image with Python 3.11 or later; one that brings torch keeps it, else the index's default wheels come.
ARG BASE=python:3.12-slim
# hadolint ignore=DL3006
FROM ${BASE}
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /opt/acto
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# hadolint ignore=DL3013
RUN python -m pip install ".[train,parquet,onnx,report]" && useradd --create-home --uid 1000 acto
USER 1000
WORKDIR /home/acto
# Training needs more shared memory than a container has by default: docker run --shm-size=2g
ENTRYPOINT ["acto"]
CMD ["doctor"]
