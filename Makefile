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

# Everything, on Docker and on Podman: about an hour and a half. It ends with a list of the slowest tests.
test-all:
	scripts/with-engine scripts/test all

# The part of test-all that makes every call to the engine fail, and kills each process at each step of a job.
test-faults:
	scripts/with-engine scripts/test all -run '^TestFaults' ./test/integration/faults

# Changes the code in one place at a time and expects a unit test to fail. All packages take hours. To run some of
# them: make mutants PACKAGES="./schemas ./internal/nar"
mutants:
	scripts/mutants/run $(PACKAGES)

# Writes the tables in docs/benchmarks.md. It takes some minutes; nothing else should run on the machine meanwhile.
bench: build
	go test -tags week -count=1 -run '^TestManyNodes$$' ./orchestrator/nodes
	IGLU_BENCH_JOB_IMAGE=$$(scripts/with-engine scripts/job-image --full) scripts/with-engine go run ./scripts/bench

# The tool that makes releases. Its first run compiles it, which takes minutes.
GORELEASER = go run github.com/goreleaser/goreleaser/v2@v2.15.1

# Makes all files of a release in dist, and its images on the engine. Nothing is published. The release includes
# uncommitted changes. GoReleaser looks up the commit only if there is a remote, so this sets one.
release-snapshot: export GIT_CONFIG_COUNT = 1
release-snapshot: export GIT_CONFIG_KEY_0 = remote.origin.url
release-snapshot: export GIT_CONFIG_VALUE_0 = https://github.com/iglu-sh/builder
release-snapshot:
	scripts/with-engine $(GORELEASER) release --snapshot --clean

# For .github/workflows/release.yml: makes and publishes the release of the checked-out tag.
release:
	scripts/release-notes $(VERSION) >release-notes.md
	$(GORELEASER) release --clean --release-notes=release-notes.md
