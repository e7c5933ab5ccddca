# Two commands: make demo, make test.

.PHONY: build demo test test-all test-faults mutants bench

# What 'iglu-builder version' says.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

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
