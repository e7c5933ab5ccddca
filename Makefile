# Two commands: make demo, make test.

.PHONY: build demo test test-all test-faults mutants bench release-snapshot release

# What 'iglu-builder version' says: the tag v1.2.3 is the version 1.2.3.
VERSION ?= $(patsubst v%,%,$(shell git describe --tags --always --dirty 2>/dev/null))

build:
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w -X main.version=$(VERSION)' -o bin/iglu-builder ./cmd/iglu-builder

demo: build
	scripts/with-engine go run ./scripts/demo

# Every capability once, against the real thing: some minutes.
test:
	scripts/with-engine scripts/test

# Everything, on Docker and on Podman: somewhat more than an hour. It ends with what took longest.
test-all:
	scripts/with-engine scripts/test all

# The part of test-all that has every call of the engine go wrong, and everything die at
# each step of a job.
test-faults:
	scripts/with-engine scripts/test all -run '^TestFaults' -count=1 ./test/integration/faults

# Changes the code in one place at a time and expects a unit test to fail. It takes hours for all
# packages; for some: make mutants PACKAGES="./schemas ./internal/nar"
mutants:
	scripts/mutants/run $(PACKAGES)

# Writes the tables in docs/benchmarks.md; takes some minutes on a machine left alone.
bench: build
	IGLU_BENCH_JOB_IMAGE=$$(scripts/with-engine scripts/job-image --full) scripts/with-engine go run ./scripts/bench

# The tool that makes releases: its first run compiles it, which takes minutes.
GORELEASER = go run github.com/goreleaser/goreleaser/v2@v2.15.1

# All of a release in dist, and its images on the engine. Nothing is published. What is not
# committed goes into it as well. Without a remote GoReleaser would not look for the commit.
release-snapshot: export GIT_CONFIG_COUNT = 1
release-snapshot: export GIT_CONFIG_KEY_0 = remote.origin.url
release-snapshot: export GIT_CONFIG_VALUE_0 = https://github.com/iglu-sh/builder
release-snapshot:
	scripts/with-engine $(GORELEASER) release --snapshot --clean

# For .github/workflows/release.yml: makes and publishes the release of the tag that is checked out.
release:
	scripts/release-notes $(VERSION) >release-notes.md
	$(GORELEASER) release --clean --release-notes=release-notes.md
