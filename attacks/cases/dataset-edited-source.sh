# A build that was stopped goes on after a file was edited to another content of the same length.
. "$ATTACKS/lib.sh"
mkdir -p tree/a
for k in $(seq 100 399); do printf '2\n\nC 0 0 1\nO 1 0 0\n' > tree/a/$k.xyz; done
echo broken > tree/a/399.xyz
options=(--size 5 --voxel-size 1 --elements C,O --quiet)
refused 399.xyz steer3d dataset build tree --out set.h5 "${options[@]}"
printf '2\n\nC 0 0 1\nO 1 0 0\n' > tree/a/399.xyz
printf '2\n\nC 0 0 2\nO 1 0 0\n' > tree/a/100.xyz
steer3d dataset build tree --out set.h5 "${options[@]}" > /dev/null
steer3d dataset build tree --out fresh.h5 "${options[@]}" > /dev/null
for name in set fresh; do steer3d dataset export $name.h5 --to $name.csv --quiet > /dev/null; done
cmp set.csv fresh.csv || fail "a resumed build has the item of an old file"
