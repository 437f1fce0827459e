#!/usr/bin/env bash
# What `make demo` runs: the trained digits model from checkpoint to predictions; a detector of drawn shapes, trained for
# a moment; then LIT-S exported, as an engine too, and measured.
# LIT_CKPT=/path/to/lit_s.pth uses the real weights instead of seeded ones.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${DEMO_DIR:-demo}
mkdir -p "$out"
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say lit-deploy doctor
digits=examples/01_digits
say lit-deploy export --ckpt "$digits/digits.pth" --labels "$digits/labels.txt" --input uint8 --out "$out/digits.onnx"
say python "$digits/digits_data.py" "$out/digits"
say lit-deploy verify "$out/digits.onnx" --ckpt "$digits/digits.pth" --images "$out/digits" --limit 360 --layers --plot "$out/digits_layers.png"
say lit-deploy evaluate "$out/digits.onnx" --ckpt "$digits/digits.pth" --images "$out/digits"
say lit-deploy predict "$out/digits.onnx" "$out"/digits/{0/0000,2/0826,5/0032,7/0884}.png --top 3

shapes=examples/03_shapes
say python "$shapes/shapes_data.py" "$out/shapes" --count 40
say python "$shapes/train.py" --task detection --epochs "${DEMO_EPOCHS:-4}" --out "$out/retinanet.pth"
say lit-deploy export --ckpt "$out/retinanet.pth" --resize 128 --out "$out/retinanet.onnx"
say lit-deploy evaluate "$out/retinanet.onnx" --ckpt "$out/retinanet.pth" --images "$out/shapes/images" --annotations "$out/shapes/instances.json"
say lit-deploy predict "$out/retinanet.onnx" "$out"/shapes/images/{0003,0017}.png --score-threshold 0.3 --out "$out/found"

checkpoint=${LIT_CKPT:-$out/lit_s.pth}
[ -n "${LIT_CKPT:-}" ] || say python -m lit_deploy.seeded lit_s "$checkpoint"
say lit-deploy export --ckpt "$checkpoint" --out "$out/lit_s.onnx"
say lit-deploy inspect "$out/lit_s.onnx"
say lit-deploy export --ckpt "$out/lit_s.onnx" --format trt --out "$out/lit_s.engine"
say lit-deploy bench "$out/lit_s.onnx" --ckpt "$checkpoint" --rounds "${DEMO_ROUNDS:-10}" --plot "$out/lit_s.png"
