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

# Packages: one version, one time, and no path of this machine in any byte.
DESTDIR ?=
ARCH ?= $(shell $(GO) env GOARCH)
COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
export SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
PACKAGE_VERSION := $(or $(patsubst v%,%,$(VERSION)),0.0.0~git$(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y%m%d%H%M%S)$(if $(COMMIT),.$(COMMIT)))
IMAGE_TAG := $(subst ~,-,$(PACKAGE_VERSION))

.PHONY: help build demo test test-all lint bench screenshots install dist deb image reproducible sizes clean go-is-there

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
	$(MAKE) reproducible

lint: go-is-there ## vet, staticcheck, formatting, the direction of imports, another OS, and without the grid.
	@out=$$("$$($(GO) env GOROOT)/bin/gofmt" -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) run ./internal/tools/layers
	GOOS=darwin $(GO) vet ./...
	$(GO) vet -tags nogrid ./...

screenshots: go-is-there ## docs/screenshots: dashboard and status of a running system (needs chromium).
	QUANTUMD_SCREENSHOTS=$(CURDIR)/docs/screenshots $(GO) test -count=1 -run TestScreenshots ./cmd/quantumd

bench: go-is-there ## Benchmarks: ours, and the real peers named by ZDB_BIN and ZSTOR_BIN.
	$(GO) test -run '^$$' -bench . -benchtime 1s ./engine/... ./store/...
	$(GO) test -run '^$$' -bench 'Manifest' -benchtime 1s ./qsfs/manifest
	$(GO) test -run '^$$' -bench 'Upload|Reconcile' -benchtime 1x -timeout 60m ./qsfs
	$(GO) test -run '^$$' -bench Call -benchtime 200x ./cmd/quantumd-hook

install: build ## Binaries, manual, completions and documents below DESTDIR/PREFIX.
	$(MAKE) --no-print-directory put FROM=bin TELLS=bin/quantumd

# put installs from the folder FROM; TELLS is a program that runs here and prints
# manual and completions. Where PREFIX is /usr, zsh and fish look for what a
# distribution brings in folders of their own.
ZSHDIR = $(if $(filter /usr,$(PREFIX)),share/zsh/vendor-completions,share/zsh/site-functions)
FISHDIR = $(if $(filter /usr,$(PREFIX)),share/fish/vendor_completions.d,share/fish/completions)
.PHONY: put
put:
	@set -eu; to="$(DESTDIR)$(PREFIX)"; doc="$$to/share/doc/quantumd"; \
	install -d "$$to/bin" "$$to/share/man/man1" "$$to/share/bash-completion/completions" "$$to/$(ZSHDIR)" "$$to/$(FISHDIR)" "$$doc"; \
	install -m 0755 $(FROM)/quantumd $(FROM)/quantumd-hook "$$to/bin"; \
	$(TELLS) man --date $(SOURCE_DATE_EPOCH) | gzip -9n >"$$to/share/man/man1/quantumd.1.gz"; \
	$(TELLS) completion bash >"$$to/share/bash-completion/completions/quantumd"; \
	$(TELLS) completion zsh >"$$to/$(ZSHDIR)/_quantumd"; \
	$(TELLS) completion fish >"$$to/$(FISHDIR)/quantumd.fish"; \
	install -m 0644 README.md SECURITY.md NOTICE docs/*.md config.example.yaml deploy/prometheus/quantumd.rules.yml deploy/grafana/quantumd.json "$$doc"; \
	cat NOTICE LICENSE licenses/*.txt >"$$doc/copyright"; gzip -9nc CHANGELOG.md >"$$doc/changelog.gz"; \
	chmod 0644 "$$to/share/man/man1/quantumd.1.gz" "$$to/share/bash-completion/completions/quantumd" "$$to/$(ZSHDIR)/_quantumd" "$$to/$(FISHDIR)/quantumd.fish" "$$doc/copyright" "$$doc/changelog.gz"

DIST_BUILD = CGO_ENABLED=0 GOOS=linux GOFLAGS= $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.released=$(or $(VERSION),$(PACKAGE_VERSION))'
dist: go-is-there
	@set -eu; out=dist/$(ARCH); rm -rf $$out; mkdir -p $$out; \
	GOARCH=$(ARCH) $(DIST_BUILD) -o $$out/quantumd-hook ./cmd/quantumd-hook; \
	cp $$out/quantumd-hook cmd/quantumd/quantumd-hook; \
	GOARCH=$(ARCH) $(DIST_BUILD) -tags 'embedhook $(TAGS)' -o $$out/quantumd ./cmd/quantumd; \
	if [ "$(ARCH)" = "$$($(GO) env GOHOSTARCH)" ] && [ "$(GOOS_HOST)" = Linux ]; then cp $$out/quantumd $$out/tells; else \
	GOFLAGS= CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.released=$(or $(VERSION),$(PACKAGE_VERSION))' -o $$out/tells ./cmd/quantumd; fi

deb: dist ## dist/quantumd_VERSION_ARCH.deb (ARCH=amd64 or arm64).
	@rm -rf dist/$(ARCH)/root
	@$(MAKE) --no-print-directory put FROM=dist/$(ARCH) TELLS=dist/$(ARCH)/tells DESTDIR=dist/$(ARCH)/root PREFIX=/usr
	@cd internal/tools/deb && GOFLAGS= $(GO) run . -root $(CURDIR)/dist/$(ARCH)/root -scripts $(CURDIR)/deploy/deb -arch $(ARCH) \
		-version '$(PACKAGE_VERSION)' -epoch $(SOURCE_DATE_EPOCH) -o '$(CURDIR)/dist/quantumd_$(PACKAGE_VERSION)_$(ARCH).deb'
	@ls -l 'dist/quantumd_$(PACKAGE_VERSION)_$(ARCH).deb'

image: dist ## dist/quantumd-image_VERSION_ARCH.tar, on scratch, for `docker load`.
	@GOFLAGS= $(GO) run ./internal/tools/image -program dist/$(ARCH)/quantumd -arch $(ARCH) -version '$(IMAGE_TAG)' -epoch $(SOURCE_DATE_EPOCH) \
		-o 'dist/quantumd-image_$(IMAGE_TAG)_$(ARCH).tar'
	@ls -l 'dist/quantumd-image_$(IMAGE_TAG)_$(ARCH).tar'

reproducible: go-is-there ## Build twice in different folders and compare every byte of binaries, packages and images.
	sh scripts/reproducible.sh

sizes: go-is-there ## Sizes and build times with the grid's SDK and without it; takes minutes.
	@sh scripts/sizes.sh

clean: ## Remove what build made.
	rm -rf bin dist cmd/quantumd/quantumd-hook
