# A second build of the same dataset while the first one runs.
. "$ATTACKS/lib.sh"
mkdir -p tree/a
for k in $(seq 1000 2499); do printf '2\n\nC 0 0 1\nO 1 0 0\n' > tree/a/$k.xyz; done
build() { "$STEER3D" dataset build tree --out set.h5 --size 24 --voxel-size 1 --elements C,O --quiet; }
build > first.txt 2>&1 &
first=$!
until [ -e set.h5.partial/000000.json ]; do kill -0 $first || fail "the first build ended too soon"; sleep 0.02; done
kill -STOP $first
refused "another steer3d is writing here" build || { kill -CONT $first; exit 1; }
kill -CONT $first
wait $first || { cat first.txt; fail "the first build failed"; }
steer3d dataset verify set.h5 --quiet | grep -q "0 of 1500 items are broken"
