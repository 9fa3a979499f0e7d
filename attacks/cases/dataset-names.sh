# Control characters in names, which would reach the terminal.
. "$ATTACKS/lib.sh"
refused "no control characters" steer3d dataset import tetris --out set.h5 --quiet \
  --class-names $'a\e[31m,b,c,d,e,f,g,h'
refused "no control characters" steer3d dataset import tetris --out set.h5 --quiet --name $'a\rb'
mkdir -p tree/$'a\e[1m'
printf '1\n\nC 0 0 1\n' > tree/$'a\e[1m'/1.xyz
refused "no control characters" steer3d dataset build tree --out set.h5 --size 5 --quiet
