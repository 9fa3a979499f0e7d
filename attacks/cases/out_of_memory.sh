# A batch whose fields no memory holds: one line and exit code 2, not a signal.
. "$ATTACKS/lib.sh"
tiny tiny.h5
printf '%s\n' 'kind = "plain"' 'channels = 1' 'classes = 8' '[[blocks]]' 'channels = 65536' 'size = 1' > network.toml
refused "out of memory" "$STEER3D" train tiny.h5 --config network.toml --epochs 1 --batch-size 100 --quiet --out run
