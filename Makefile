# Targets fetch Go modules and pinned tools, nothing else. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := build

# A Go older than go.mod asks for cannot read it. Then the right toolchain comes
# as a module: the same file that newer versions of Go would fetch by themselves.
GO ?= $(shell sh scripts/go.sh)
export GO
export GOFLAGS ?= -trimpath

VERSION ?=
LDFLAGS := -s -w $(if $(VERSION),-X main.released=$(VERSION))
GOOS_HOST := $(shell uname -s)
# Elsewhere than on Linux the binaries are built for Linux: they run there.
BUILD_ENV := CGO_ENABLED=0 $(if $(filter Linux,$(GOOS_HOST)),,GOOS=linux)
PREFIX ?= /usr/local
TAGS ?=

.PHONY: help build demo test test-all lint bench screenshots install clean go-is-there

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

go-is-there:
	@test -n "$(GO)" || { echo "No usable Go: install Go 1.21 or newer (https://go.dev/dl), or any Go with access to modules, and run make again." >&2; exit 1; }

build: go-is-there ## Static binaries: bin/quantumd and bin/quantumd-hook.
	@mkdir -p bin
	@$(if $(filter Linux,$(GOOS_HOST)),true,echo "Building for linux: a QSFS runs there.")
	$(BUILD_ENV) $(GO) build -ldflags '$(LDFLAGS)' -o bin/quantumd-hook ./cmd/quantumd-hook
	@cp bin/quantumd-hook cmd/quantumd/quantumd-hook
	$(BUILD_ENV) $(GO) build -tags 'embedhook $(TAGS)' -ldflags '$(LDFLAGS)' -o bin/quantumd ./cmd/quantumd

demo: build ## Bring up a whole QSFS and show its main job, with faults and checks.
	bin/quantumd demo --source "$$($(GO) env GOROOT)/src" $(DEMO_FLAGS)

test: lint ## Lint and every test that this machine can run; what is skipped is listed at the end.
	$(GO) run ./internal/tools/testrun -skips .ci/skips $(TESTRUN_FLAGS) -timeout 10m ./...

test-all: lint build ## test, and what is long or needs root, Docker or FUSE.
	QUANTUMD_LONG=1 QUANTUMD_BIN=$(CURDIR)/bin/quantumd $(GO) run ./internal/tools/testrun -skips .ci/skips $(TESTRUN_FLAGS) -timeout 120m ./...
	$(MAKE) demo DEMO_FLAGS=--require-mount
	$(MAKE) demo DEMO_FLAGS=--no-mount

lint: go-is-there ## vet, staticcheck, formatting, the direction of imports, another OS.
	@out=$$("$$($(GO) env GOROOT)/bin/gofmt" -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) run ./internal/tools/layers
	GOOS=darwin $(GO) vet ./...

screenshots: go-is-there ## docs/screenshots: dashboard and status of a running system (needs chromium).
	QUANTUMD_SCREENSHOTS=$(CURDIR)/docs/screenshots $(GO) test -count=1 -run TestScreenshots ./cmd/quantumd

bench: go-is-there ## Benchmarks: ours, and the real peers named by ZDB_BIN and ZSTOR_BIN.
	$(GO) test -run '^$$' -bench . -benchtime 1s ./engine/... ./store/...
	$(GO) test -run '^$$' -bench 'Manifest' -benchtime 1s ./qsfs/manifest
	$(GO) test -run '^$$' -bench 'Upload|Reconcile' -benchtime 1x -timeout 60m ./qsfs
	$(GO) test -run '^$$' -bench Call -benchtime 200x ./cmd/quantumd-hook

install: build ## Put the binaries below DESTDIR/PREFIX.
	install -D -m 0755 bin/quantumd $(DESTDIR)$(PREFIX)/bin/quantumd
	install -D -m 0755 bin/quantumd-hook $(DESTDIR)$(PREFIX)/bin/quantumd-hook

clean: ## Remove what build made.
	rm -rf bin cmd/quantumd/quantumd-hook
