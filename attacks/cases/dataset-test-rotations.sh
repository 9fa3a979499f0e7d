# A number of test rotations whose product with the eight shapes wraps around.
. "$ATTACKS/lib.sh"
refused "test rotations" steer3d dataset import tetris --out set.h5 --test-rotations 2305843009213693953 --quiet
