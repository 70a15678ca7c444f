# The command retainfirst, on a CPU:
#   docker build --tag retainfirst .
#   docker run --rm --volume "$PWD:/work" retainfirst unlearn --output first

FROM rust:1-slim-bookworm AS builder
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /maturin \
 && /maturin/bin/pip install --no-cache-dir "maturin>=1.7,<2"
WORKDIR /source
COPY Cargo.toml Cargo.lock pyproject.toml README.md LICENSE ./
COPY rust rust
COPY python python
RUN /maturin/bin/maturin build --release --out /wheels

FROM python:3.12-slim-bookworm
# The CPU build of torch is a tenth of the size of the one for CUDA, which PyPI has.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch>=2.4"
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    wheel="$(echo /wheels/retainfirst-*.whl)" \
 && pip install --no-cache-dir "${wheel}[hf,eval,plot,verify]"
RUN useradd --create-home --uid 1000 user \
 && mkdir --parents /work /home/user/.cache \
 && chown user:user /work /home/user/.cache
USER user
WORKDIR /work
ENTRYPOINT ["retainfirst"]
