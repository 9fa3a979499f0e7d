# No space for the dataset (a limit of the size of files stands for a full disk).
. "$ATTACKS/lib.sh"
trap '' XFSZ
ulimit -f 64
refused "free some space" steer3d dataset import tetris --size 25 --out set.h5 --quiet
! grep -q damaged error.txt || fail "a full disk is taken for a damaged file"
[ ! -e set.h5 ] || fail "half a dataset is there"
