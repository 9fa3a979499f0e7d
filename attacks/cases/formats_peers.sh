# A matrix that looks like an image is refused.
. "$ATTACKS/lib.sh"
cp "$ATTACKS/files/made.dscalar.nii" matrix.nii
printf 'path,label\nmatrix.nii,a\n' > table.csv
refused "a CIFTI matrix" "$STEER3D" dataset build table.csv --quiet --out matrix.h5
