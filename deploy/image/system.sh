#!/bin/sh
# What the image needs from Debian, the account that everything runs as, and the data folder.
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# OpenCV needs the first two. PostgreSQL's client is for back-ups of a catalog that lies there.
apt-get install -y -qq --no-install-recommends libgl1 libglib2.0-0 postgresql-client >/dev/null
apt-get clean
rm -rf /var/lib/apt/lists
groupadd --gid 10001 homeward
useradd --uid 10001 --gid homeward --no-create-home --home-dir /tmp --shell /usr/sbin/nologin \
    homeward
install -d -m 700 -o homeward -g homeward /data
