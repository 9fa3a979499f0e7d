# An experiment file whose data.make is not the import of its dataset: nothing is run, nothing else is written.
. "$ATTACKS/lib.sh"
tiny given.h5
try() {
  printf '[data]\ndataset = "%s"\nmake = [%s]\n[model]\npreset = "plain"\n[training]\nepochs = 1\n' "$1" "$2" > e.toml
  refused 'data.make' "$STEER3D" train e.toml --quiet --out run
}
import='"dataset", "import", "tetris", "--size", "9"'
try new.h5 '"eval", "given.h5", "--command", "touch run-by-a-file; exit 1"'
try new.h5 '"train", "given.h5", "--out", "written"'
try new.h5 '"dataset", "export", "given.h5", "--to", "written.csv"'
try new.h5 '"dataset", "split", "given.h5", "--out", "written.h5"'
try new.h5 "$import, \"--out\", \"written.h5\""
mkdir -p inner outer
try inner/new.h5 "$import, \"--out\", \"inner/../outer/new.h5\""
ln -s ../outer inner/link
try inner/new.h5 "$import, \"--out\", \"inner/link/new.h5\""
try new.h5 "$import, \"--out\", \"new.h5\", \"--help\""
for file in run-by-a-file written written.csv written.h5 outer/new.h5 inner/new.h5 new.h5; do
  [ ! -e $file ] || fail "$file was made"
done
# What is meant works, also by another name of the same place.
for out in inner/new.h5 inner/../inner/new.h5; do
  rm -f inner/new.h5
  printf '[data]\ndataset = "inner/new.h5"\nmake = [%s, "--out", "%s"]\n[model]\npreset = "plain"\n[training]\nepochs = 1\n' \
    "$import" $out > e.toml
  steer3d train e.toml --quiet --out run-$RANDOM > /dev/null || fail "the dataset was not made"
done
