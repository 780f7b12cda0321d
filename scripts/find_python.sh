#!/bin/sh
# Print the first Python on the PATH that Homeward supports (3.11 or newer, with venv and pip).
# $1, if given, is tried alone. What is missing is said on stderr, with what to do about it.
set -u

usable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if [ -n "${1:-}" ]; then
    candidates=$1
else
    candidates="python3 python3.13 python3.12 python3.11 python3.14 python"
fi

for candidate in $candidates; do
    usable "$candidate" || continue
    if ! "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        # Debian splits these two modules off into a package of their own.
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        sh "$(dirname "$0")/debian_packages.sh" "python${version}-venv" >&2 || exit 1
    fi
    echo "$candidate"
    exit 0
done

found=$(python3 --version 2>/dev/null || echo "none")
echo "Homeward needs Python 3.11 or newer; found: ${found}." >&2
echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it:" >&2
echo "    make install PYTHON=/path/to/python3.12" >&2
exit 1
