.PHONY: demo test test-onnx setup

demo: setup
	cargo run --release --locked -p steer3d-cli -- demo --out steer3d-demo

test: setup
	cargo test --workspace --locked

# ONNX models, a heavy build (Rust 1.91 or newer).
test-onnx: setup
	cargo test --workspace --locked --features steer3d-cli/onnx --test eval --test cli -- onnx makers

setup:
	@scripts/setup
