# The camera service in three sizes that answer alike: --target fat | slim | distroless.
#
#   ./run_all.sh images --only retail        here, without a Docker engine, on bases bootstrapped from Debian
#
#   docker build -f deploy/retail.Dockerfile --target distroless -t retail:distroless \
#     --build-context wheels=DIR --build-context model=DIR .
#
# `wheels`: the wheels of deploy/requirements/retail*.txt (pip download --no-deps -r …), so that no index, and no password of one, is known
# to a build; `model`: a directory with the detector's ok.json, yolov8n-int8.onnx and yolov8n.onnx.
#
# YOLOv8n's weights are AGPL-3.0 (data/inputs/MANIFEST.json), which the label of each image says: images are built where they run and are
# not shipped. A clip to play is mounted, for none is in an image: --samples DIR, or --clip NAME=PATH.

ARG FAT=python:3.11-bookworm
ARG SLIM=python:3.11-slim-bookworm
ARG DISTROLESS=gcr.io/distroless/python3-debian12:nonroot

# What most ship first: compilers, headers, pip, and every package that the pipeline is made with.
FROM ${FAT} AS fat
COPY deploy/requirements/retail-fat.txt /requirements.txt
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m pip install --no-cache-dir --no-index --no-deps --find-links=/wheels --target=/opt/site -r /requirements.txt \
    && install -d -o 65532 -g 65532 /data
COPY data/inputs/MANIFEST.json /app/data/inputs/
COPY data/inputs/retail/floor.toml /app/data/inputs/retail/
COPY lib /app/lib
# hadolint ignore=DL3022  # a build context, no stage
COPY --from=model . /model
ENV PYTHONPATH=/opt/site:/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 \
    HOME=/data INFERENCE_CACHE=/data RETAIL_MODELS=/model
WORKDIR /app
EXPOSE 8010
# 0.0.0.0 because a container's network is its border: what may reach it is for the runtime to say (-p 127.0.0.1:8010:8010, a NetworkPolicy).
ENTRYPOINT ["python3", "-m", "lib.pipelines.retail.service", "--engine", "onnxruntime", "--precision", "int8"]
CMD ["--host", "0.0.0.0", "--port", "8010"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8010/readyz', timeout=2)"]
LABEL org.opencontainers.image.title="retail, fat" org.opencontainers.image.licenses="MIT AND AGPL-3.0-only"
# Its root may be read-only: what it keeps is in /data, a volume that user 65532 may write.
USER 65532:65532

# A build stage: ONNX Runtime is the only framework. Bytecode is compiled once and for all, so that a read-only root starts no slower.
FROM ${FAT} AS build
COPY deploy/requirements/retail.txt /requirements.txt
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m pip install --no-cache-dir --no-compile --no-index --no-deps --find-links=/wheels --target=/opt/site -r /requirements.txt \
    && install -d -o 65532 -g 65532 /data
COPY data/inputs/MANIFEST.json /app/data/inputs/
COPY data/inputs/retail/floor.toml /app/data/inputs/retail/
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
    HOME=/data INFERENCE_CACHE=/data RETAIL_MODELS=/model
WORKDIR /app
EXPOSE 8010
ENTRYPOINT ["python3", "-m", "lib.pipelines.retail.service", "--engine", "onnxruntime", "--precision", "int8"]
CMD ["--host", "0.0.0.0", "--port", "8010"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8010/readyz', timeout=2)"]
LABEL org.opencontainers.image.title="retail, slim" org.opencontainers.image.licenses="MIT AND AGPL-3.0-only"
USER 65532:65532

# What the service does not need goes, rule by rule (deploy/prune.toml says why); what went is written down beside the packages.
FROM build AS pruned
COPY lib/images/prune.py deploy/prune.toml /
RUN python3 /prune.py /prune.toml retail / /opt/site/pruned.json

FROM ${DISTROLESS} AS distroless
COPY --from=pruned /opt/site /opt/site
COPY --from=pruned /app /app
COPY --from=pruned /model /model
COPY --from=pruned --chown=65532:65532 /data /data
ENV PYTHONPATH=/opt/site:/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 TYPER_USE_RICH=0 \
    HOME=/data INFERENCE_CACHE=/data RETAIL_MODELS=/model
WORKDIR /app
EXPOSE 8010
ENTRYPOINT ["python3", "-m", "lib.pipelines.retail.service", "--engine", "onnxruntime", "--precision", "int8"]
CMD ["--host", "0.0.0.0", "--port", "8010"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8010/readyz', timeout=2)"]
LABEL org.opencontainers.image.title="retail, distroless" org.opencontainers.image.licenses="MIT AND AGPL-3.0-only"
USER 65532:65532
