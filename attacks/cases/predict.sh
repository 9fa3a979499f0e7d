# Prediction for hostile and odd inputs: one line each, exit code 2 for what concerns all and 3 for what concerns one,
# nothing half-written on a full disk, and journals that were tampered with are not believed.
. "$ATTACKS/lib.sh"
protein() {
  for k in $(seq 1 "$2"); do
    printf 'ATOM  %5d  CA  ALA A%4d    %8.3f%8.3f%8.3f  1.00  0.00           C\n' "$k" "$k" \
      "$((k * 37 % 21 - 10))" "$((k * 53 % 19 - 9))" "$((k * 29 % 17 - 8))"
  done > "$1"
}
protein a.pdb 60
protein b.pdb 90
refused "did you mean \`cath-class\`" steer3d predict cath-clas a.pdb
refused "missing field" steer3d predict cath-class a.pdb --recipe /dev/null
printf 'kind = "meshes"\nfill = true\n' > mesh.toml
refused "mesh.toml" steer3d predict cath-class a.pdb --recipe mesh.toml
printf 'kind = "volumes"\nirreps = "1x0"\ndims = [1099511627776, 1, 1]\nvoxel_size = [1, 1, 1]\nunit = "voxel"\nfactor = 1\nfit = "refuse"\nnan = "refuse"\n' > huge.toml
refused "huge.toml" steer3d predict cath-class a.pdb --recipe huge.toml
mkdir empty
refused "empty" steer3d predict cath-class empty
mkfifo pipe.pdb
: > nothing.pdb
head -c 100 /dev/urandom > noise.cif
code=0
steer3d predict cath-class a.pdb nothing.pdb noise.cif pipe.pdb missing.pdb b.pdb > out.txt 2> error.txt || code=$?
[ $code = 3 ] || fail "exit code $code, expected 3"
[ "$(wc -l < out.txt)" = 2 ] || fail "the other files have no answers"
[ "$(grep -c . error.txt)" -le 6 ] || fail "more than a line for a file"
refused "expected a name that ends in" steer3d predict cath-class a.pdb --out answers.xls
refused "." steer3d predict cath-class a.pdb --out /proc/answers.csv
# A full disk, for which a limit of the size of files stands.
mkdir many
for k in $(seq 1 200); do cp a.pdb "many/$k.pdb"; done
(trap '' XFSZ; ulimit -f 8; refused "free some space" steer3d predict cath-class many --out full.csv --quiet)
[ ! -e full.csv ] || fail "half a table is there"
# An interrupted run of which a record was changed to another class.
steer3d predict cath-class many --out whole.csv --quiet
"$STEER3D" predict cath-class many --out cut.csv --quiet & pid=$!
for k in $(seq 1 200); do [ -e cut.csv.partial ] && [ "$(wc -l < cut.csv.partial)" -ge 20 ] && break; sleep 0.02; done
kill -9 $pid 2> /dev/null || true
wait $pid 2> /dev/null || true
if [ -e cut.csv.partial ]; then
  sed -i '5s/0\.[0-9]*/0.123/' cut.csv.partial
  steer3d predict cath-class many --out cut.csv --resume --quiet
fi
cmp whole.csv cut.csv || fail "a changed record was believed"
