#!/bin/sh
# Makes the image that internal/testenv/machine boots: a Debian whose process 1
# is systemd. It needs root, Docker, mmdebstrap and this machine's apt settings;
# where the image is there already it does nothing.
set -eu
image=${1:-qsfs-systemd:test}
if docker image inspect "$image" >/dev/null 2>&1; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# mmdebstrap does not look at how this machine reaches its mirrors.
apt-config dump | grep -E '^Acquire::(http|https|Retries|Check)' >"$work/apt.conf" || true
mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,fuse3,procps,iproute2 \
	--aptopt="$work/apt.conf" --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook='rm -f "$1/etc/machine-id"; : >"$1/etc/machine-id"' \
	bookworm "$work/root.tar"
docker import "$work/root.tar" "$image" >/dev/null
