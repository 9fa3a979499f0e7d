# Temporary files of dead processes go, those of the living stay.
. "$ATTACKS/lib.sh"
tiny set.h5
touch .steer3d-dead.tmp
exec 8> .steer3d-alive.tmp
flock 8
steer3d dataset split set.h5 --out other.h5 --quiet > /dev/null
[ ! -e .steer3d-dead.tmp ] || fail "the file of a dead process is still there"
[ -e .steer3d-alive.tmp ] || fail "the file of a living process was removed"
