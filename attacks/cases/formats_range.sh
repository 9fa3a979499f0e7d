# Coordinates and lengths near the largest number.
. "$ATTACKS/lib.sh"
row() { printf 'path,label\n%s,a\n' "$1" > table.csv; }
printf 'v -8e307 -8e307 0.3\nv 8e307 -8e307 0.2\nv 1 8e307 -1e3\nf 1 2 3\n' > huge.obj
row huge.obj
for field in surface solid distance normals; do
  refused "line 1: expected finite coordinates from -1e30 to 1e30" \
    "$STEER3D" dataset build table.csv --quiet --mesh-field $field --out huge-$field.h5
done
printf 'v -1e30 -1e30 3e29\nv 1e30 -1e30 2e29\nv 1e29 1e30 -1e30\nf 1 2 3\n' > large.obj
row large.obj
for field in surface solid distance normals; do
  survives "$STEER3D" dataset build table.csv --quiet --mesh-field $field --out large-$field.h5
  refused "coordinate" "$STEER3D" dataset build table.csv --quiet --mesh-field $field --voxel-size 1e-20 --out fine-$field.h5
done
printf '1\n\nC 1e300 0 0\n' > far.xyz
row far.xyz
refused "a number from -1e30 to 1e30 as x" "$STEER3D" dataset build table.csv --quiet --out far.h5
printf '#binvox 1\ndim 1 1 1\nscale 1e300\ndata\n\x01\x01' > wide.binvox
row wide.binvox
refused "voxel_size: expected numbers from 1e-30 to 1e30" "$STEER3D" dataset build table.csv --quiet --out wide.h5
