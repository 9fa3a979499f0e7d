# Programs that predict and are silent, speak too early, too much or without end: one line each.
. "$ATTACKS/lib.sh"
tiny t.h5
run() {
  refused "$1" timeout 60 "$STEER3D" eval t.h5 --rotate voxels --rotations 1 --quiet --command "$2" --command-timeout 2
}
run 'has not answered within 2 s' 'sleep 50'
run 'has not answered within 2 s' 'cat > /dev/null; sleep 50'
run 'has not answered within 2 s' 'head -c 4 > read; head -c 10 /dev/zero; sleep 50'
run 'hello' 'echo hello; cat > /dev/null'
run '`' 'yes'
run '`' 'cat /dev/zero'
run 'ended before it answered' 'exit 3'
run 'ended before it answered' 'exec > /dev/null; sleep 50'
# Right answers, and more.
cat > chatty.sh <<'END'
while read -r question; do
  n=${question#*[}; n=${n%%,*}
  head -c $((n * 2916)) > /dev/null
  printf '{"shape":[%d,8]}\n' $n
  head -c $((n * 32)) /dev/zero
  [ $# = 0 ] || echo more
done
END
run 'it must print nothing on standard output but its answers' 'sh chatty.sh more'
steer3d eval t.h5 --rotate voxels --rotations 1 --quiet --command 'sh chatty.sh' > /dev/null || fail "right answers are refused"
