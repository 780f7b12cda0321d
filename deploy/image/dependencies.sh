#!/bin/sh
# Install all packages of a lock file into /opt/homeward/venv: dependencies.sh LOCK
# Every file is checked against its hash. A lock file is complete, so nothing is resolved: that also
# keeps out `onnxruntime`, which insightface asks for and which would overwrite onnxruntime-gpu.
set -eu

python3 -m venv /opt/homeward/venv
pip="/opt/homeward/venv/bin/python -m pip --disable-pip-version-check --no-cache-dir"
$pip install --quiet --require-hashes -r requirements-build.lock
$pip install --quiet --require-hashes --no-deps --no-build-isolation -r "$1"
