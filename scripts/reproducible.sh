#!/bin/sh
# Builds packages and images of the commit that is checked out twice, in folders
# of different names and with different caches of objects, and compares them.
set -eu
umask 022
top=$(git rev-parse --show-toplevel)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for place in one another/folder; do
	git clone -q "$top" "$work/$place"
	for arch in ${ARCHS:-amd64 arm64}; do
		if [ "$place" != one ]; then export GOCACHE="$work/cache"; fi
		make -s -C "$work/$place" deb image ARCH="$arch" >/dev/null
	done
	(cd "$work/$place/dist" && find . -type f \( -name '*.deb' -o -name '*.tar' -o -path '*/quantumd*' \) -not -path '*/root/*' | sort | xargs sha256sum) >"$work/sums.$(basename "$place")"
done
cat "$work/sums.one"
test -s "$work/sums.one"
cmp "$work/sums.one" "$work/sums.folder"
echo "the same bytes, built twice"
