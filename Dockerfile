# An image with the program, made from the repository alone.
#
#   docker build -t steer3d .                        for processors, with ONNX models
#   docker build --build-arg CUDA=1 -t steer3d .     for NVIDIA GPUs: run it with --gpus all
#   docker run --rm -v "$PWD:/data" steer3d predict cath-class protein.pdb
ARG CUDA=

FROM rust:1.94-bookworm AS build
ARG CUDA
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /steer3d
COPY . .
# /libraries holds the CUDA libraries that the program needs when it runs; it is empty without a GPU.
RUN scripts/setup && mkdir /libraries && \
    if [ -n "$CUDA" ]; then \
      eval "$(scripts/cuda-toolchain)" && export NVCC="$PWD/scripts/nvcc-lite" && \
      cargo build --release --locked -p steer3d-cli --features onnx,cuda && \
      find -L .tools/cuda -name 'lib*.so.*' -not -path '*/stubs/*' -exec cp -Lt /libraries {} +; \
    else \
      cargo build --release --locked -p steer3d-cli --features onnx; \
    fi && \
    cp target/release/steer3d /usr/local/bin/ && \
    cargo run --locked -p steer3d-cli --example notices -- --features onnx > /THIRD-PARTY.md

FROM debian:bookworm-slim
COPY --from=build /usr/local/bin/steer3d /usr/local/bin/
COPY --from=build /libraries /usr/local/lib/steer3d
COPY --from=build /THIRD-PARTY.md /steer3d/LICENSE-MIT /steer3d/LICENSE-APACHE /usr/share/doc/steer3d/
ENV LD_LIBRARY_PATH=/usr/local/lib/steer3d
WORKDIR /data
ENTRYPOINT ["steer3d"]
