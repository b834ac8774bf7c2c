# crypsis on NVIDIA GPUs, with TRL as the other back end. From the root of the repository:
#   docker build -f docker/cuda.Dockerfile -t crypsis:cuda .
#   docker run --rm --gpus all --ipc host -v "$PWD/runs:/work/runs" crypsis:cuda train run.yaml model.dtype=bfloat16
FROM python:3.11-slim-bookworm

# torch's packages for Linux bring CUDA themselves, so the host needs nothing but the driver; vLLM compiles with gcc.
# The compiler comes from the release of Debian that the base image fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt '.[inspect,peft,tensorboard,trl]'

RUN useradd --create-home --uid 1000 crypsis && install --directory --owner crypsis /work
ENV CRYPSIS_CACHE=/work/.cache NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
ENTRYPOINT ["crypsis"]
CMD ["--help"]
