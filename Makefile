.PHONY: build
build:
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/iglu-builder ./cmd/iglu-builder
