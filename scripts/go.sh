#!/bin/sh
# Prints the Go to build with; prints nothing where there is none. A Go before
# 1.21 does not fetch toolchains by itself: then the one that go.mod asks for is
# fetched as the module golang.org/toolchain, checked by its sum in go.sum's
# database like every module.
want=$(sed -n 's/^go \([0-9.]*\)$/\1/p' go.mod)
case "$want" in *.*.*) ;; *) want="$want.0" ;; esac
go=$(command -v go) || exit 0
have=$("$go" env GOVERSION 2>/dev/null | sed 's/^go//')
minor=$(echo "$have" | cut -d. -f2)
if [ "${minor:-0}" -ge 21 ]; then
	echo "$go"
	exit 0
fi
os=$("$go" env GOOS) arch=$("$go" env GOARCH)
module="golang.org/toolchain@v0.0.1-go$want.$os-$arch"
dir=$(cd / && GO111MODULE=on "$go" mod download -json "$module" 2>/dev/null | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
[ -n "$dir" ] || exit 0
# Modules are kept read-only and without execute bits.
chmod -R u+w "$dir" 2>/dev/null
chmod +x "$dir"/bin/* "$dir"/pkg/tool/*/* 2>/dev/null
[ -x "$dir/bin/go" ] && echo "$dir/bin/go"
