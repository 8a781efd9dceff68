# An image of one static program and nothing else.
#
#   docker build -t registry.example/ckpt-db:0.1.0 .
#
# Two ways lead to the program. `built` (the default) compiles it here, in an image with a Rust toolchain for musl: that
# image and the crates of Cargo.lock are all that is fetched. `prebuilt` takes target/image/ckpt-db, a static program that
# was built before, and fetches nothing; this is what .ci/full builds, which reaches no registry (tests/image.sh):
#
#   docker build --build-arg PROGRAM=prebuilt -t registry.example/ckpt-db:0.1.0 .
#
# No stage has a cache mount or a time in it: the same sources, toolchain and Cargo.lock give the same program. To be sure
# of the toolchain name it by its digest: --build-arg TOOLCHAIN=docker.io/library/rust@sha256:...
ARG TOOLCHAIN=docker.io/library/rust:1.90.0-alpine3.22
ARG PROGRAM=built

FROM ${TOOLCHAIN} AS built
WORKDIR /src
COPY . .
# Alpine's target is musl, linked statically. Paths of this stage don't get into the program.
ENV CARGO_TARGET_DIR=/target CARGO_INCREMENTAL=0 SOURCE_DATE_EPOCH=0 \
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/src=ckpt-db --remap-path-prefix=/usr/local/cargo=cargo"
RUN cargo build --release --locked --bin ckpt-db \
 && mkdir /out && cp /target/release/ckpt-db /out/ckpt-db && /out/ckpt-db --version

FROM scratch AS prebuilt
COPY target/image/ckpt-db /out/ckpt-db

FROM ${PROGRAM} AS program

FROM scratch
LABEL org.opencontainers.image.title="ckpt-db" \
      org.opencontainers.image.description="Brings a Kubernetes node's pods back after a power cut while its API server is unreachable" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=program /out/ckpt-db /ckpt-db
# Root, in number, since there are no names here: the kubelet's credentials are root's files, and so are the directories of
# manifests and Secrets that it writes. What root may do is what the pod allows: see dist/kustomize.
USER 0:0
ENTRYPOINT ["/ckpt-db"]
CMD ["run"]
