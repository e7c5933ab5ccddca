# The image of a release: what images/Dockerfile makes, of a program that is there already.
# .goreleaser.yaml says what the build gets.
FROM scratch
COPY iglu-builder /
# A volume that is mounted here gets this owner.
COPY --chown=65532:65532 dist/state /var/lib
# Not before the first file, or Docker's classic builder forgets the platform.
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="Iglu Builder" \
      org.opencontainers.image.description="Builds Nix derivations in containers and pushes them to a cache" \
      org.opencontainers.image.source="https://github.com/iglu-sh/builder" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
USER 65532:65532
# The program's default, the loopback address, is of no use inside a container.
ENV IGLU_LISTEN=:3000 IGLU_STATE_DIR=/var/lib/iglu-builder
EXPOSE 3000
# Healthy while the builder takes jobs. Engines ask for the first time when the interval is over.
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s CMD ["/iglu-builder", "healthcheck"]
ENTRYPOINT ["/iglu-builder"]
CMD ["serve"]
