# Networks with huge numbers, in a model's card and in a configuration that is to be trained.
. "$ATTACKS/lib.sh"
tiny tiny.h5

steerable='kind = "steerable"
input = "1x0"
classes = 8
nonlinearity = "gate"
[kernel]
family = "gaussian_jets"
order = 2
[[blocks]]
fields = "2x0+1x1"
size = 3
[[blocks]]
fields = "2x0"
size = 3'
plain='kind = "plain"
channels = 1
classes = 8
[[blocks]]
channels = 2
size = 3'
large=9223372036854775807
many=$(printf '1x0+%.0s' $(seq 20000))1x0

# Changes of a configuration, as sed has them.
steerable_changes=(
  "s/classes = 8/classes = $large/" "s/classes = 8/classes = 1000000000/" "s/classes = 8/classes = -1/"
  "s/\"2x0+1x1\"/\"65536x0+65536x1\"/" "s/\"2x0+1x1\"/\"65536x0\"/;s/\"2x0\"/\"65536x0\"/"
  "s/\"2x0\"/\"${large}x0\"/" "s/\"2x0\"/\"1x$large\"/" "s/\"2x0\"/\"1x21\"/" "s/2x0+1x1/$many/"
  "s/\"1x0\"/\"65536x0+65536x4\"/" "s/\"1x0\"/\"$many\"/" "s/\"2x0+1x1\"/\"1x20\"/;s/\"2x0\"/\"2x0+1x20\"/"
  "s/size = 3/size = $large/" "s/size = 3/size = 33/" "s/size = 3/size = 0/" "s/size = 3/size = 3\nstride = $large/"
  "s/size = 3/size = 3\nrepeat = $large/" "s/size = 3/size = 3\nrepeat = 600/" "s/size = 3/size = 3\nhidden = \"1x0\"/"
  "s/order = 2/order = $large/" "s/order = 2/order = 3/" "s/order = 2/order = 2\nsigma = 1e308/;s/classes = 8/classes = 1/"
  "s/gaussian_jets/bessel/;s/order = 2/functions = $large/" "s/gaussian_jets/bessel/;s/order = 2/functions = 65/"
  "s/gaussian_jets/gaussian_shells/;s/order = 2/sigma = 1e-320\ncutoff = \"none\"/;s/2x0+1x1/40x10/;s/size = 3/size = 31/"
  "s/gaussian_jets/radii/;/order = 2/d;s/2x0+1x1/4x10/;s/size = 3/size = 31/"
  "s/\"gate\"/\"tensor_product\"/;s/2x0+1x1/$many/" "s/\"gate\"/\"tensor_product\"/;s/2x0+1x1/1024x0+1024x1+1024x2/"
  "s/\"gate\"/\"sphere\"/;s/2x0+1x1/1x6/" "s/\"gate\"/\"norm\"\ndropout = 1e300/" "s/\"gate\"/\"norm\"\ninput_scale = inf/"
  "s/\"gate\"/\"norm\"\nvoxel_size = [1e-308, 1e308, 1.0]/" "s/\"gate\"/\"norm\"\nvoxel_size = [nan, 1.0, 1.0]/"
  "s/classes = 8/head.field.irreps = \"65536x0+65536x1\"/" "s/classes = 8/head.field.irreps = \"$many\"/"
)
plain_changes=(
  "s/classes = 8/classes = $large/" "s/classes = 8/classes = 4611686018427387905/" "s/channels = 2/channels = $large/"
  "s/channels = 1/channels = $large/"
  "s/channels = 2/channels = 65536\nrepeat = 1000/" "s/size = 3/size = $large/" "s/size = 3/size = 17/"
  "s/size = 3/size = 3\npool = $large/" "s/size = 3/size = 3\nrepeat = $large/" "s/size = 3/size = 3\npool = 0/"
  "s/classes = 8/classes = 8\nsymmetry = \"octahedral\"/;s/channels = 2/channels = 4000\nrepeat = 2/"
  "s/classes = 8/classes = 8\ntransformer = { cells = $large, blocks = [] }/"
)

# model FILE: a model file without tensors whose card, on standard input, is the text of a network.
model() {
  local text header
  text=$(sed 's/^\[\+/&model./; 1i format = 1\nversion = "0"\ndataset = "d"\nseed = 0\nclass_names = []\ndims = [9, 9, 9]\nvoxel_size = [1.0, 1.0, 1.0]\nunit = "voxel"\n[model]')
  header=$(printf '%s' "$text" | sed 's/\\/\\\\/g; s/"/\\"/g' | awk '{ printf "%s\\n", $0 }')
  header="{\"__metadata__\":{\"steer3d\":\"$header\"}}"
  sized "$header" > "$1"
}

# sized HEADER: the beginning of a safetensors file, its length and the header.
sized() {
  local i length=${#1}
  for i in 0 1 2 3 4 5 6 7; do printf "\\x$(printf %02x $((length >> 8 * i & 255)))"; done
  printf '%s' "$1"
}

# attack TEXT CHANGES...: every change of a network is refused.
attack() {
  local text=$1 change; shift
  for change in "$@"; do
    printf '%s\n' "$text" | sed "$change" > network.toml
    refused "" "$STEER3D" train tiny.h5 --config network.toml --epochs 1 --quiet --out run
    model model.safetensors < network.toml
    refused "" "$STEER3D" info model.safetensors
  done
}
attack "$steerable" "${steerable_changes[@]}"
attack "$plain" "${plain_changes[@]}"

# A trained model whose card has another grid.
printf '%s\n' "$steerable" > network.toml
steer3d train tiny.h5 --config network.toml --epochs 1 --quiet --out run > /dev/null
trained=run/model.safetensors
length=$(od -An -tu8 -N8 $trained | tr -d ' ')
header=$(head -c $((8 + length)) $trained | tail -c "$length" | sed 's/ *$//')
steer3d info $trained > /dev/null
for dims in "100000, 100000, 100000" "4000000000, 4000000000, 4000000000" "$large, $large, $large" "0, 9, 9" "2000, 2000, 9"; do
  { sized "$(printf '%s' "$header" | sed "s/dims = \[[^]]*\]/dims = [$dims]/")"; tail -c +$((9 + length)) $trained; } > grid.safetensors
  refused "" "$STEER3D" info grid.safetensors
  survives "$STEER3D" eval grid.safetensors tiny.h5 --rotations 1
done
