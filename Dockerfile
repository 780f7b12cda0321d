# Homeward on processors.
# Each RUN step is a script of deploy/image, which `make images-check` also runs without Docker.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY deploy/image ./deploy/image
COPY requirements-build.lock requirements-scale.lock ./
RUN ["sh", "deploy/image/dependencies.sh", "requirements-scale.lock"]
COPY pyproject.toml README.md LICENSE ./
COPY models ./models
COPY indexer ./indexer
COPY service ./service
RUN ["sh", "deploy/image/program.sh"]

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Homeward" \
      org.opencontainers.image.description="Compares photos of missing people with images in ads and lists candidates for review" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY deploy/image /opt/homeward/image
RUN ["sh", "/opt/homeward/image/system.sh"]
COPY --from=build /opt/homeward/venv /opt/homeward/venv
COPY scripts/check_native.py /opt/homeward/check_native.py
# Nothing is written but to the data folder and to /tmp, so the root may be read-only.
ENV PATH=/opt/homeward/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    HOMEWARD_DATA_DIR=/data \
    HOMEWARD_HOST=0.0.0.0
USER 10001:10001
RUN ["sh", "/opt/homeward/image/verify.sh"]
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000
# The first start builds the default pack and rebuilds the index where that is missing.
HEALTHCHECK --interval=15s --timeout=10s --start-period=10m --retries=4 \
    CMD ["python", "/opt/homeward/image/health.py"]
ENTRYPOINT ["homeward"]
CMD ["serve"]
