# A pipe in a folder of a class, in a table, as a dataset and as an archive.
. "$ATTACKS/lib.sh"
mkdir -p tree/a
printf '1\n\nC 0 0 1\n' > tree/a/1.xyz
mkfifo tree/a/2.xyz pipe.h5 pipe.npz
refused "found a pipe, socket or device" timeout 10 "$STEER3D" dataset build tree --out set.h5 --size 5 --quiet
printf 'path,label\ntree/a/1.xyz,a\ntree/a/2.xyz,a\n' > table.csv
refused "found a pipe, socket or device" timeout 10 "$STEER3D" dataset build table.csv --out two.h5 --size 5 --quiet
refused "found a pipe, socket or device" timeout 10 "$STEER3D" dataset verify pipe.h5
refused "found a pipe, socket or device" timeout 10 "$STEER3D" dataset import arrays pipe.npz --out three.h5
