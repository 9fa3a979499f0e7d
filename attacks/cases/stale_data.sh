# The same command after labels, names or a volume have changed gives what it gives in a new folder, or an error.
. "$ATTACKS/lib.sh"
# volume FILE SEED: a volume of 5 x 5 x 5 bytes.
volume() {
  { printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 5, 5), }"
    for i in $(seq 125); do printf "\\x$(printf %02x $((($2 * 7919 + i * i * ($2 + 3)) % 200)))"; done; } > "$1"
}
mkdir v
for i in $(seq 12); do volume v/$i.npy $i; done
# table FIRST SECOND: the classes of odd and even volumes.
table() {
  echo path,label,split
  for i in $(seq 12); do
    [ $((i % 2)) = 1 ] && label=$1 || label=$2
    [ $i -le 6 ] && split=train || split=test
    echo v/$i.npy,$label,$split
  done
}
build() { rm -rf d.h5 d.h5.partial; table "$1" "$2" > d.csv; steer3d dataset build d.csv --quiet --out d.h5 > /dev/null; }
few='--rotations 1 --angles 90 --translations 1 --quiet'
compare() { steer3d compare d.h5 --models plain --seeds 1 --epochs 3 $few --json --out $1 | grep -E '"(mean|low|high)"' | head -n 6; }
build a b
compare used > first.txt
build b a
compare used > second.txt
compare fresh > expected.txt
cmp second.txt expected.txt || fail "compare gave an old number"

# A network trained on classes a, b, and the same volumes with the names exchanged.
build a b
steer3d train d.h5 --model plain --epochs 3 --quiet --out run > /dev/null
rm d.h5; sed -i 's/,a,/,z,/' d.csv
steer3d dataset build d.csv --quiet --out d.h5 > /dev/null
refused 'the classes differ' "$STEER3D" eval run/model.safetensors d.h5 $few
sed -i 's/,z,/,a,/' d.csv; rm d.h5
steer3d dataset build d.csv --name c --quiet --out d.h5 > /dev/null
refused 'the dataset was' "$STEER3D" train d.h5 --model plain --epochs 3 --quiet --out run --resume
