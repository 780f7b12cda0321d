#!/bin/sh
# Make sure that Debian packages are there: debian_packages.sh NAME...
# Installs them through apt where this runs as root; says what to install everywhere else.
set -u

missing=""
for package in "$@"; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/dev/null && exit 0
    echo "apt could not install:$missing" >&2
    exit 1
fi

echo "These system packages are missing:$missing" >&2
echo "Debian, Ubuntu:  sudo apt install$missing" >&2
echo "Other systems:   the packages that hold the same libraries, by their own names." >&2
exit 1
