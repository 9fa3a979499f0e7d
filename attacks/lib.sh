# What the cases share; each begins with: . "$ATTACKS/lib.sh"
set -euo pipefail

steer3d() { "$STEER3D" "$@"; }

fail() { echo "$*"; exit 1; }

# refused TEXT COMMAND...: the command ends with exit code 2 and one line on standard error that contains TEXT.
refused() {
  local text=$1 code=0; shift
  "$@" > out.txt 2> error.txt || code=$?
  [ $code = 2 ] || { cat error.txt; fail "expected exit code 2, found $code: $*"; }
  [ "$(grep -c . error.txt)" = 1 ] || { cat error.txt; fail "expected one line of error: $*"; }
  grep -qF -- "$text" error.txt || { cat error.txt; fail "expected an error with '$text': $*"; }
}

# survives COMMAND...: the command ends by itself with success or a refusal, not by a signal, a panic or the clock.
survives() {
  local code=0
  "$@" > out.txt 2> error.txt || code=$?
  { [ $code -le 3 ] && ! grep -q panicked error.txt; } || { cat error.txt; fail "exit code $code: $*"; }
}

# tiny FILE [NAME]: a dataset of 24 small volumes of three classes.
tiny() {
  steer3d dataset import tetris --size 9 --quiet --out "$1" > /dev/null
}
