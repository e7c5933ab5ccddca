# The image of a release. It is the image of images/Dockerfile, with a program that is already
# built. .goreleaser.yaml lists the files that this build gets.
FROM scratch
COPY iglu-builder /
# A new volume that is mounted here gets this owner.
COPY --chown=65532:65532 dist/state /var/lib
# These must follow the first COPY: otherwise Docker's classic builder loses the platform.
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="Iglu Builder" \
      org.opencontainers.image.description="Builds Nix derivations in containers and pushes them to a cache" \
      org.opencontainers.image.source="https://github.com/iglu-sh/builder" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
USER 65532:65532
# The program listens on the loopback address by default, which cannot be reached from outside a
# container.
ENV IGLU_LISTEN=:3000 IGLU_STATE_DIR=/var/lib/iglu-builder
EXPOSE 3000
# Healthy while the builder accepts jobs. Engines run the first check after the interval.
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s CMD ["/iglu-builder", "healthcheck"]
ENTRYPOINT ["/iglu-builder"]
CMD ["serve"]
