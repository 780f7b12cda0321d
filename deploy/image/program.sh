#!/bin/sh
# Install Homeward itself from the folder this is called in, and compile everything to bytecode:
# where the image runs, nothing can be written beside the sources.
set -eu

python=/opt/homeward/venv/bin/python
$python -m pip --disable-pip-version-check --no-cache-dir install --quiet --no-deps \
    --no-build-isolation .
$python -m pip --disable-pip-version-check uninstall --quiet --yes wheel setuptools
# Some packages carry files of other versions of Python, which do not compile and are not imported.
$python -m compileall -q -j 0 /opt/homeward/venv/lib || true
