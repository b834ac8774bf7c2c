# crypsis on a CPU. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t crypsis:cpu .
#   docker run --rm -v "$PWD/runs:/work/runs" crypsis:cpu demo --scale nano
FROM python:3.11-slim-bookworm

# uv takes torch's build for CPUs; pip's would bring several GB of CUDA.
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_TORCH_BACKEND=cpu UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1 OMP_NUM_THREADS=1 CRYPSIS_CACHE=/work/.cache

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN uv pip install --constraint constraints.txt '.[inspect,peft,tensorboard]'

RUN useradd --create-home --uid 1000 crypsis && install --directory --owner crypsis /work
USER 1000
WORKDIR /work
ENTRYPOINT ["crypsis"]
CMD ["--help"]
