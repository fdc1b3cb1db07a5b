# syntax=docker/dockerfile:1

# production, or sandbox: the image for trying the gateway out, with the WeChat and COS stand-ins in the binary.
#   docker build --tag tcb-upload-gateway .
#   docker build --tag tcb-upload-gateway:sandbox --build-arg PROFILE=sandbox .
# The sandbox profile listens on loopback only, and its download URLs lead there: run it with `--network host`.
ARG PROFILE=production

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# The dependencies in a layer of their own: it is built again only when they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches && echo 'fn main() {}' > src/main.rs && touch src/lib.rs benches/relay.rs benches/encode.rs \
    && cargo build --profile dist --locked --no-default-features \
    && rm -r src
COPY config config
COPY src src
# The dummy sources are newer than ours. The sandbox is a feature; an unknown profile is an unknown feature.
ARG PROFILE
RUN touch src/main.rs src/lib.rs \
    && cargo build --profile dist --locked --no-default-features \
        $([ "$PROFILE" = production ] || echo "--features=$PROFILE") \
    && strip target/dist/tcb-upload-gateway

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/dist/tcb-upload-gateway /usr/local/bin/
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 65532:65532
ARG PROFILE
ENV GATEWAY_PROFILE=$PROFILE
# $PORT, as cloud hosting sets it; 8080 without it.
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["tcb-upload-gateway", "--health"]
ENTRYPOINT ["tcb-upload-gateway"]
