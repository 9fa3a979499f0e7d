# Files of others in the folder of a report, and two evaluations or trainings at once in one folder.
. "$ATTACKS/lib.sh"
tiny t.h5
steer3d train t.h5 --model plain --epochs 1 --quiet --out run > /dev/null
mkdir -p report/unfinished/kept
echo mine > report/unfinished/notes.txt
steer3d eval run/model.safetensors t.h5 --rotate voxels --rotations 1 --quiet --out report > /dev/null
[ "$(cat report/unfinished/notes.txt)" = mine ] && [ -d report/unfinished/kept ] || fail "a user's file was removed"
[ ! -e report/unfinished/0.answers ] || fail "a journal is left"
"$STEER3D" eval t.h5 --rotate voxels --quiet --command 'sleep 30' --out busy > /dev/null 2>&1 & first=$!
sleep 1
refused 'another steer3d is writing here' timeout 20 "$STEER3D" eval run/model.safetensors t.h5 --quiet --out busy
kill $first; wait $first || true
steer3d eval run/model.safetensors t.h5 --rotate voxels --rotations 1 --quiet --out busy > /dev/null
"$STEER3D" train t.h5 --model plain --epochs 100000 --quiet --out training > /dev/null 2>&1 & first=$!
sleep 1
refused 'is writing here' timeout 20 "$STEER3D" train t.h5 --model plain --epochs 1 --quiet --overwrite --out training
kill $first; wait $first || true
