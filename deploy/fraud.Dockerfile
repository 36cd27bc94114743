# The card-scoring service in three sizes that answer alike: --target fat | slim | distroless.
#
#   ./run_all.sh images --only fraud        here, without a Docker engine, on bases bootstrapped from Debian
#
#   docker build -f deploy/fraud.Dockerfile --target distroless -t fraud:distroless \
#     --build-context wheels=DIR --build-context model=DIR .
#
# `wheels`: the wheels of deploy/requirements/fraud*.txt (pip download --no-deps -r …), so that no index, and no password of one, is known
# to a build; `model`: a directory with the fraud model's ok.json and model.onnx. Compiled trees stay out: they are of one processor's kind.

ARG FAT=python:3.11-bookworm
ARG SLIM=python:3.11-slim-bookworm
ARG DISTROLESS=gcr.io/distroless/python3-debian12:nonroot

# What most ship first: compilers, headers, pip, and every package that the pipeline is made with.
FROM ${FAT} AS fat
COPY deploy/requirements/fraud-fat.txt /requirements.txt
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m pip install --no-cache-dir --no-index --no-deps --find-links=/wheels --target=/opt/site -r /requirements.txt \
    && install -d -o 65532 -g 65532 /data
COPY data/inputs/MANIFEST.json /app/data/inputs/
COPY lib /app/lib
# hadolint ignore=DL3022  # a build context, no stage
COPY --from=model . /model
ENV PYTHONPATH=/opt/site:/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 \
    HOME=/data INFERENCE_CACHE=/data FRAUD_MODEL=/model
WORKDIR /app
EXPOSE 8000
# 0.0.0.0 because a container's network is its border: what may reach it is for the runtime to say (-p 127.0.0.1:8000:8000, a NetworkPolicy).
ENTRYPOINT ["python3", "-m", "lib.pipelines.fraud.service", "--engine", "onnx", "--journal", "/data/decisions.sqlite"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
LABEL org.opencontainers.image.title="fraud, fat" org.opencontainers.image.licenses="MIT"
# Its root may be read-only: what it keeps is in /data, a volume that user 65532 may write.
USER 65532:65532

# A build stage: ONNX Runtime is the only framework. Bytecode is compiled once and for all, so that a read-only root starts no slower.
FROM ${FAT} AS build
COPY deploy/requirements/fraud.txt /requirements.txt
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m pip install --no-cache-dir --no-compile --no-index --no-deps --find-links=/wheels --target=/opt/site -r /requirements.txt \
    && install -d -o 65532 -g 65532 /data
COPY data/inputs/MANIFEST.json /app/data/inputs/
COPY lib /app/lib
# hadolint ignore=DL3022  # a build context, no stage
COPY --from=model . /model
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/site /app/lib

# No program of the system can make its caller somebody else: set-uid bits go.
FROM ${SLIM} AS slim
RUN find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/site /opt/site
COPY --from=build /app /app
COPY --from=build /model /model
COPY --from=build --chown=65532:65532 /data /data
ENV PYTHONPATH=/opt/site:/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 \
    HOME=/data INFERENCE_CACHE=/data FRAUD_MODEL=/model
WORKDIR /app
EXPOSE 8000
ENTRYPOINT ["python3", "-m", "lib.pipelines.fraud.service", "--engine", "onnx", "--journal", "/data/decisions.sqlite"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
LABEL org.opencontainers.image.title="fraud, slim" org.opencontainers.image.licenses="MIT"
USER 65532:65532

# What the service does not need goes, rule by rule (deploy/prune.toml says why); what went is written down beside the packages.
FROM build AS pruned
COPY lib/images/prune.py deploy/prune.toml /
RUN python3 /prune.py /prune.toml fraud / /opt/site/pruned.json

FROM ${DISTROLESS} AS distroless
COPY --from=pruned /opt/site /opt/site
COPY --from=pruned /app /app
COPY --from=pruned /model /model
COPY --from=pruned --chown=65532:65532 /data /data
ENV PYTHONPATH=/opt/site:/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 TYPER_USE_RICH=0 \
    HOME=/data INFERENCE_CACHE=/data FRAUD_MODEL=/model
WORKDIR /app
EXPOSE 8000
ENTRYPOINT ["python3", "-m", "lib.pipelines.fraud.service", "--engine", "onnx", "--journal", "/data/decisions.sqlite"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
LABEL org.opencontainers.image.title="fraud, distroless" org.opencontainers.image.licenses="MIT"
USER 65532:65532
