# More target values than 32,768 of an item are kept, and more than 65,536 refused.
. "$ATTACKS/lib.sh"
steer3d dataset import arrays "$ATTACKS/files/targets-40000.npz" --out set.h5 --quiet > /dev/null
steer3d dataset verify set.h5 --quiet | grep -q "0 of 2 items are broken"
refused "found 70000" steer3d dataset import arrays "$ATTACKS/files/targets-70000.npz" --out more.h5 --quiet
