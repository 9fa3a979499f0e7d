# Numbers out of any range in options, protocols and experiments: one line and exit code 2, at once.
. "$ATTACKS/lib.sh"
tiny t.h5
steer3d train t.h5 --model plain --epochs 1 --quiet --out run > /dev/null
refuses() { refused '' timeout 20 "$STEER3D" "$@"; }
model=run/model.safetensors
for options in '--rotations 1000000000000' '--rotations 18446744073709551615' '--even 1000000000000' \
  '--even 18446744073709551615' '--search 4294967295' '--search 3 --search-rounds 18446744073709551615' \
  '--eval-batch-size 0' '--rotations 3000 --eval-batch-size 18446744073709551615'; do
  refuses eval $model t.h5 --rotate voxels --quiet $options
done
angles=$(seq -s, 1 0.01 170)
refuses eval $model t.h5 --quiet --angles "$angles"
for line in 'rotations = 18446744073709551615' 'rotations = 9223372036854775807' 'per_angle = 9223372036854775807' \
  'resamples = 9223372036854775807' 'layer_items = 3
layer_rotations = 9223372036854775807' 'even = 9223372036854775807' 'batch = 9223372036854775807
rotations = 500000' 'search = { grid = 9223372036854775807, rounds = 9223372036854775807 }'; do
  echo "$line" > protocol.toml
  refuses eval $model t.h5 --quiet --protocol protocol.toml
done
refuses dataset import tetris --size 9 --quiet --out x.h5 --test-rotations 2305843009213693953
refuses dataset import tetris --size 9 --quiet --out x.h5 --test-rotations 18446744073709551615
refuses dataset import tetris --size 9 --quiet --out x.h5 --test-rotations 1000000000000
refuses info 1x0 --threads 10000
refuses info 1x0 --threads 18446744073709551615
STEER3D_THREADS=10000 refused '--threads' timeout 20 "$STEER3D" info 1x0
keys=$(printf 'a.%.0s' $(seq 20000))a
deep=$(printf '[%.0s' $(seq 40000))
echo '[data]
dataset = "t.h5"
[model]
preset = "plain"' > e.toml
refuses train e.toml --quiet --set "$keys=1"
refuses train e.toml --quiet --set "model.a=$deep"
printf '%s = 1\n' "$keys" > deep.toml
refuses train deep.toml --quiet
refuses eval $model t.h5 --quiet --protocol deep.toml
printf 'a = %s\n' "$deep" > deep.toml
refuses train deep.toml --quiet
for set in training.epochs=9223372036854775807 training.batch_size=9223372036854775807 \
  training.accumulate=9223372036854775807 states.keep=9223372036854775807 states.every_minutes=1e308; do
  refuses train e.toml --quiet --set $set
done
for n in 0 10001 18446744073709551615; do
  timeout 20 "$STEER3D" train e.toml --seeds $n --quiet > /dev/null 2> error.txt && fail "--seeds $n"
  [ $? != 124 ] || fail "--seeds $n takes long"
  timeout 20 "$STEER3D" compare t.h5 --out c --seeds $n --quiet > /dev/null 2> error.txt && fail "compare --seeds $n"
  timeout 20 "$STEER3D" demo tetris --out d --seeds $n --quiet > /dev/null 2> error.txt && fail "demo --seeds $n"
done
refuses compare t.h5 --out c --seed 18446744073709551615 --seeds 2 --quiet
refuses compare t.h5 --out c --rotations 1000000000000 --quiet
[ ! -e c/steerable-0 ] || fail "compare trains before it looks at its protocol"
refuses demo cath --out d --rotations 1000000000000 --quiet
[ ! -e d/cath/steerable ] || fail "demo trains before it looks at its protocol"
refuses equivariance --seed 18446744073709551615 --quiet
refuses equivariance --rotations 18446744073709551615 --quiet
