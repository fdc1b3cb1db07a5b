# syntax=docker/dockerfile:1

# production, or sandbox: the image for trying the gateway out, with the WeChat and COS stand-ins in the binary.
#   docker build --tag tcb-upload-gateway .
#   docker build --tag tcb-upload-gateway:sandbox --build-arg PROFILE=sandbox .
# The sandbox profile listens on loopback only, and its download URLs lead there: run it with `--network host`.
ARG PROFILE=production

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The dependencies in a layer of their own: it is built again only when they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs benches/relay.rs benches/encode.rs \
    && cargo build --profile dist --locked --no-default-features \
    && rm -r src
COPY config config
COPY src src
# The Chinese texts of errors, for the API's description.
COPY docs/zh/errors.toml docs/zh/errors.toml
# The dummy sources are newer than ours. The sandbox is a feature; an unknown profile is an unknown feature.
ARG PROFILE
RUN touch src/main.rs src/lib.rs \
    && cargo build --profile dist --locked --no-default-features \
        --features="otlp$([ "$PROFILE" = production ] || echo ",$PROFILE")" \
    && strip target/dist/tcb-upload-gateway
# The root of the image: the binary, the libraries that it is linked to, the certificates of public authorities, and a
# folder for temporary files, which the sandbox stores objects in.
RUN mkdir -p /image/usr/local/bin /image/etc/ssl/certs \
    && mkdir -m 1777 /image/tmp \
    && cp target/dist/tcb-upload-gateway /image/usr/local/bin/ \
    && cp --parents $(ldd target/dist/tcb-upload-gateway | grep -o '/[^ ]*') /image/ \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/

# No shell and no packages: nothing to update but the gateway, and nothing for an intruder to use.
FROM scratch
COPY --from=build /image /
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 65532:65532
ARG PROFILE
ENV GATEWAY_PROFILE=$PROFILE
# $PORT, as cloud hosting sets it; 8080 without it.
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/tcb-upload-gateway", "--health"]
ENTRYPOINT ["/usr/local/bin/tcb-upload-gateway"]
