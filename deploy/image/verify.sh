#!/bin/sh
# See that the compiled parts load and the program starts, as the account that will run it.
set -eu

/opt/homeward/venv/bin/python /opt/homeward/check_native.py
/opt/homeward/venv/bin/homeward --version
