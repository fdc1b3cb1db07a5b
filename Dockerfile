# syntax=docker/dockerfile:1

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# The dependencies in a layer of their own: it is built again only when they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src benches && echo 'fn main() {}' > src/main.rs && touch src/lib.rs benches/relay.rs benches/encode.rs \
    && cargo build --profile dist --locked --no-default-features \
    && rm -r src
COPY config config
COPY src src
# The dummy sources are newer than ours.
RUN touch src/main.rs src/lib.rs && cargo build --profile dist --locked --no-default-features \
    && strip target/dist/tcb-upload-gateway

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /build/target/dist/tcb-upload-gateway /usr/local/bin/
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 65532:65532
ENV GATEWAY_PROFILE=production
# $PORT, as cloud hosting sets it; 8080 without it.
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["tcb-upload-gateway", "--health"]
ENTRYPOINT ["tcb-upload-gateway"]
