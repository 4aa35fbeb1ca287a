#!/bin/sh
# Imports the small models, exports them, and compares the exports in transformers with stored values.
#     hf_export_check.sh PYTHON swiattn-checkpoint FIXTURES WORK
# Exit 77 (skipped) when PYTHON has no transformers.
set -eu
python=$1 program=$2 models=$3/models work=$4
check=$(dirname "$0")/hf_export_check.py
export HF_MODULES_CACHE="$work/modules" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1  # the models are tiny

"$python" -c 'import torch, safetensors, transformers' || exit 77
rm -rf "$work"
mkdir -p "$work"
for name in hybrid-llama hybrid-qwen3 static-qwen2; do
  "$program" import "$models/$name" "$work/$name"
  "$program" verify "$work/$name"
  "$program" export "$work/$name" "$work/$name-export"
  "$program" verify "$work/$name-export"
  "$python" "$check" "$work/$name-export" "$models/$name/expected.safetensors"
done
for name in mistral-linear qwen2-sharded; do
  "$program" import "$models/$name" "$work/$name"
  "$program" export "$work/$name" "$work/$name-export" --base
  "$python" "$check" "$work/$name-export" "$models/$name/expected.safetensors" --plain
done
