# Files that unpack to far more than they hold, and values in an order that costs time.
. "$ATTACKS/lib.sh"
mkdir -p t/a
row() { printf 'path,label\n%s,a\n' "$1" > table.csv; }

# 260 KB that become 268 million voxels: 1.3 GB, once 6.7 GB.
npy() { # SHAPE ORDER: the header of an array of bytes
  local text="{'descr': '|u1', 'fortran_order': $2, 'shape': $1, }"
  printf '\x93NUMPY\x02\x00'; printf "$(printf '\\x%02x\\x%02x\\x00\\x00' $((${#text} % 256)) $((${#text} / 256)))"
  printf '%s' "$text"
}
{ npy "(512, 512, 1024)" False; head -c 268435456 /dev/zero; } | gzip -9 > voxels.npy.gz
row voxels.npy.gz
survives "$STEER3D" dataset build table.csv --quiet --out voxels.h5 --size 8 --fit crop
# 4 MB that become 1.2 GB of text and far more of atoms.
line='ATOM      1  CA  GLY A  12      11.104  -6.134   2.500  0.50 12.25           C  '
for i in $(seq 2000); do echo "$line"; done > block.pdb
for i in $(seq 2500); do cat block.pdb; done | gzip -9 > atoms.pdb.gz
row atoms.pdb.gz
refused "the memory for input" "$STEER3D" dataset build table.csv --quiet --out atoms.h5
refused "atoms.pdb.gz" "$STEER3D" dataset build table.csv --quiet --out atoms.h5
# Quoted values on one line: once a minute.
{ printf 'data_x\nloop_\n_a\n'; printf "'b' %.0s" $(seq 300000); } > quoted.cif
row quoted.cif
refused "no such atoms" timeout 10 "$STEER3D" dataset build table.csv --quiet --out quoted.h5
# 5,000 axes in Fortran order.
{ npy "($(printf '1,%.0s' $(seq 4998))512, 512)" True; head -c 262144 /dev/zero; } > axes.npy
row axes.npy
refused "at most 64 axes" timeout 10 "$STEER3D" dataset build table.csv --quiet --out axes.h5
