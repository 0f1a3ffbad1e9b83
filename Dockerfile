# docker build -t actpatch . && docker run --rm -v "$PWD/results:/results" actpatch demo --data-dir /results
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/actpatch

FROM debian:bookworm-slim
COPY --from=build /src/target/release/actpatch /usr/local/bin/actpatch
# Models from the Hub are kept here: mount a volume to keep them between runs.
ENV HF_HOME=/cache/huggingface
WORKDIR /work
ENTRYPOINT ["actpatch"]
CMD ["--help"]
