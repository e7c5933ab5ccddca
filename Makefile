# Two commands: make demo, make test.

.PHONY: build demo test test-faults mutants bench

# What 'iglu-builder version' says.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

build:
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w -X main.version=$(VERSION)' -o bin/iglu-builder ./cmd/iglu-builder

demo: build
	scripts/with-engine go run ./scripts/demo

test:
	scripts/with-engine scripts/test

# The part of the tests that has every call of the engine go wrong, and everything die at
# each step of a job. It prints what it did.
test-faults:
	scripts/with-engine scripts/test -run '^TestFaults' -v -count=1 ./cmd/iglu-builder

# Changes the code in one place at a time and expects a unit test to fail. It takes hours for all
# packages; for some: make mutants PACKAGES="./schemas ./internal/nar"
mutants:
	scripts/mutants/run $(PACKAGES)

# Writes the tables in docs/benchmarks.md; takes some minutes on a machine left alone.
bench: build
	IGLU_BENCH_JOB_IMAGE=$$(scripts/with-engine scripts/job-image) scripts/with-engine go run ./scripts/bench
