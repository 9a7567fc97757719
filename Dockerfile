# The Python package with its extras: workers, rq workers.
FROM rust:slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip3 wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
RUN useradd --create-home durable
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[rq,postgres,mysql]"
COPY scripts/run_worker.py /home/durable/scripts/run_worker.py
USER durable
WORKDIR /home/durable
