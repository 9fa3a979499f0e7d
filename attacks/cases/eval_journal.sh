# The journal of an interrupted evaluation, its tail zeroed, damaged or exchanged, and its data or model changed: the
# report is that of an evaluation without a journal.
. "$ATTACKS/lib.sh"
steer3d dataset import tetris --size 9 --test-rotations 4 --quiet --out t.h5 > /dev/null
steer3d train t.h5 --model plain --epochs 1 --quiet --out run > /dev/null
steer3d train t.h5 --model plain --epochs 1 --seed 5 --quiet --out other > /dev/null
cp run/model.safetensors m.safetensors
protocol='--rotate voxels --rotations 100 --angles 90 --translations 1 --eval-batch-size 4 --quiet'
e() { steer3d eval m.safetensors t.h5 $protocol --out $1 > /dev/null; }
numbers() { cat $1/results.csv; }
e whole
journal=used/unfinished/0.answers
interrupt() {
  rm -rf used
  "$STEER3D" eval m.safetensors t.h5 $protocol --out used > /dev/null 2>&1 & id=$!
  for i in $(seq 400); do
    sleep 0.02
    [ -e $journal ] && [ "$(stat -c %s $journal)" -gt 40000 ] && break
  done
  kill -KILL $id; wait $id 2> /dev/null || true
  [ -s $journal ] || fail "no journal was written"
}
same() { e used; cmp <(numbers used) <(numbers $1) || fail "$2"; }
interrupt; same whole "the evaluation did not go on to the same numbers"
interrupt; size=$(stat -c %s $journal)
dd if=/dev/zero of=$journal bs=1 seek=$((size / 2)) count=$((size - size / 2)) conv=notrunc 2> /dev/null
same whole "a zeroed tail was believed"
interrupt; size=$(stat -c %s $journal)
printf '\x40\x77' | dd of=$journal bs=1 seek=$((size - 3000)) conv=notrunc 2> /dev/null
same whole "a damaged number was believed"
interrupt
cp other/model.safetensors m.safetensors
e changed
same changed "the answers of another model were believed"
