# Ctrl-C and SIGTERM during evaluations and other commands: exit code 130 within two seconds, whatever a batch takes;
# programs that predict end too, with what they have started; what was done is kept.
. "$ATTACKS/lib.sh"
tiny t.h5
now() { date +%s%N; }
# ended SIGNAL COMMAND...: the command runs for a second and ends in time by the signal.
ended() {
  local signal=$1 code=0 start; shift
  "$@" > out.txt 2> error.txt &
  local id=$!
  sleep 1.5
  kill -0 $id 2> /dev/null || { cat error.txt; fail "ended by itself: $*"; }
  start=$(now)
  kill -$signal $id
  wait $id || code=$?
  local took=$((($(now) - start) / 1000000))
  [ $code = 130 ] || { cat error.txt; fail "expected exit code 130, found $code: $*"; }
  [ $took -lt 2000 ] || fail "took $took ms: $*"
}
gone() { # an ended process may wait for init to take note of it
  [ -s "$1" ] || fail "$2 has not started"
  sleep 0.3
  ! grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$1")/status" 2> /dev/null || fail "$2 still runs"
}
for signal in INT TERM; do
  rm -f grandchild
  ended $signal "$STEER3D" eval t.h5 --rotate voxels --quiet --out slow \
    --command 'sh -c "echo \$\$ > grandchild; sleep 60; true"; sleep 60'
  gone grandchild 'the program of a program'
  ended $signal "$STEER3D" equivariance --size 129 --quiet
  ended $signal "$STEER3D" demo tetris --quiet --out demo
done
# An evaluation after a training, and a comparison: interrupted and gone on with.
cat > e.toml <<'END'
[data]
dataset = "t.h5"
[model]
preset = "plain"
[training]
epochs = 1
[evaluation]
split = "test"
[evaluation.protocol]
rotations = 400
batch = 1
END
ended TERM "$STEER3D" train e.toml --quiet --out run
[ -s run/report/unfinished/0.answers ] || fail "the training was interrupted before its evaluation"
steer3d train t.h5 --model plain --epochs 1 --quiet --out model > /dev/null
ended INT "$STEER3D" eval model/model.safetensors t.h5 --rotations 400 --quiet --out report
size=$(stat -c %s report/unfinished/0.answers)
ended TERM "$STEER3D" eval model/model.safetensors t.h5 --rotations 400 --quiet --out report
[ "$(stat -c %s report/unfinished/0.answers)" -gt "$size" ] || fail "the evaluation did not go on"
