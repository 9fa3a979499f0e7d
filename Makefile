.PHONY: demo answer pictures results test test-onnx test-mpi test-python release package book wheel setup

demo: setup
	cargo run --release --locked -p steer3d-cli -- demo --out steer3d-demo

# The table of README's answer, six networks from three seeds: half an hour of processor time. Gaussians one voxel
# wide, since narrower ones are undersampled.
answer: setup
	mkdir -p steer3d-answer
	cargo run --release --locked -p steer3d-cli -- dataset import cath data/cath/cath_3class_ca_small.npz \
	  --size 24 --sigma 2 --name cath --out steer3d-answer/cath.h5
	cargo run --release --locked -p steer3d-cli -- compare steer3d-answer/cath.h5 --epochs 12 --seeds 3 \
	  --interpolation cubic --rotations 8 --angles 15,45,90,180 --translations 1,2,4 --groups cube \
	  --search 24 --search-rounds 4 --out steer3d-answer

# The pictures of README: a domain that turns, and accuracy against the angle.
pictures: setup
	cargo run --release --locked -p steer3d-cli -- demo cath --out steer3d-pictures
	cargo run --release --locked -p steer3d-cli -- report animate steer3d-pictures/report.json --out docs/src/pictures/turning.png
	cp steer3d-pictures/figures/1-cath-accuracy-angle.svg docs/src/pictures/angle.svg

# The experiments of docs/src/results.md; one of them: scripts/results NAME.
results: setup
	scripts/results

# FEATURES are further options of cargo.
test: setup
	cargo test --workspace --locked $(FEATURES)

# ONNX models, a heavy build.
test-onnx: setup
	cargo test --workspace --locked --features steer3d-cli/onnx --test eval --test cli -- onnx makers

# Several processes by MPI, with Open MPI from the system's packages: after make test without FEATURES much is built anew.
test-mpi: setup
	scripts/mpi

# The program with ONNX models as an archive for this platform, in target/.
release: setup
	scripts/release

# Every crate as it would be published, built from its package.
package: setup
	cargo package --workspace --locked --exclude steer3d-python

# The documentation as a site, in target/book: needs mdBook (cargo install mdbook).
book:
	mdbook build docs

# The layers for PyTorch, which takes 5 GB from PyPI, and the notebooks; after make test.
test-python: setup
	scripts/python --torch
	scripts/notebooks --check

# A wheel of the Python package in target/wheels, with the tag of the oldest glibc that it runs on; it is refused where it
# would need another library of the system.
wheel: setup
	MATURIN_PEP517_ARGS="--compatibility pypi --auditwheel check --locked" \
	  python3 -m pip wheel --quiet --no-deps --wheel-dir target/wheels .

setup:
	@scripts/setup
