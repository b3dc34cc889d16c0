#!/bin/sh
# Sizes and build times of the programs, with the grid's SDK and without it: each
# is built anew (-a has every package compiled), and once more after one file changed.
set -eu
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export CGO_ENABLED=0
printf '%-34s %12s %10s %10s\n' program bytes modules seconds
build() { # NAME TAGS PACKAGE
	began=$(date +%s)
	GOCACHE="$out/cache-$2" ${GO:-go} build -trimpath -tags "$2" -ldflags '-s -w' -o "$out/$1" "$3"
	printf '%-34s %12d %10d %10d\n' "$1${2:+ ($2)}" "$(stat -c %s "$out/$1")" \
		"$(${GO:-go} version -m "$out/$1" | grep -c '^	dep')" "$(($(date +%s) - began))"
}
build quantumd "" ./cmd/quantumd
build quantumd nogrid ./cmd/quantumd
build quantumd-hook "" ./cmd/quantumd-hook
build provisioner "" ./examples/provisioner
