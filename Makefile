# Two commands: make demo, make test.

.PHONY: build demo test

build:
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/iglu-builder ./cmd/iglu-builder

demo: build
	scripts/with-engine go run ./scripts/demo

test:
	scripts/with-engine scripts/test
