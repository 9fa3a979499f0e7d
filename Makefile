.PHONY: demo test setup

demo: setup
	cargo run --release --locked -p steer3d-cli -- demo --out steer3d-demo

test: setup
	cargo test --workspace --locked

setup:
	@scripts/setup
