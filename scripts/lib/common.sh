# shellcheck shell=bash
# What the scripts share: messages, and where Python, LibTorch and nvcc are. Nothing here installs
# anything or touches the network. Source it; it moves to the root of the clone.
set -euo pipefail

# A relative path is one of the folder that the caller is in.
SWIATTN_DEPS=$(realpath -m "${SWIATTN_DEPS:-$HOME/.cache/swiattn}")
script=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export SWIATTN_DEPS
torch_version=2.11.0
# shellcheck disable=SC2034  # used by the scripts that source this
demo_model=$SWIATTN_DEPS/models/SmolLM2-135M-Instruct

# Open MPI refuses root, which is who runs in a container, unless told twice.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# offer_help "$@": with -h or --help a script prints the comment at its head and ends.
offer_help() {
  [[ ${1:-} == -h || ${1:-} == --help ]] || return 0
  sed -n '2,/^# shellcheck/p' "$script" | sed '$d; s/^# \{0,1\}//'
  exit
}

have() { command -v "$1" >/dev/null 2>&1; }
has_gpu() { have nvidia-smi && nvidia-smi -L >/dev/null 2>&1; }

# Prints the folder of the torch that belongs to a Python, without importing it; fails when there is
# none of the right version. A local part of the version, such as +cu130, does not matter.
torch_of() {
  "$1" - "$torch_version" 2>/dev/null <<'PYTHON'
import importlib.metadata, importlib.util, os, sys
if importlib.metadata.version("torch").split("+")[0] != sys.argv[1]:
    sys.exit(1)
print(os.path.dirname(importlib.util.find_spec("torch").origin))
PYTHON
}

# Sets `python` (an interpreter, with torch if any has it) and `torch` (LibTorch's folder, or "").
# A person's choice comes first, then the environment that scripts/setup made, then python3. Where
# that environment stands on the chosen Python's torch, it is taken: it has more packages.
find_python_and_torch() {
  local candidate
  for candidate in "${SWIATTN_PYTHON:-}" "$SWIATTN_DEPS/venv/bin/python" python3; do
    have "$candidate" || continue
    python=$(command -v "$candidate")
    if torch=$(torch_of "$python"); then break; fi
    [[ -z ${SWIATTN_PYTHON:-} ]] || break
  done
  candidate=$SWIATTN_DEPS/venv/bin/python
  if [[ -n $torch && -x $candidate && $(torch_of "$candidate") == "$torch" ]]; then
    python=$candidate
  fi
  if [[ -n ${SWIATTN_TORCH:-} ]]; then
    [[ -e $SWIATTN_TORCH/lib/libtorch_cpu.so ]] ||
      die "SWIATTN_TORCH is '$SWIATTN_TORCH', but there is no lib/libtorch_cpu.so in it."
    torch=$SWIATTN_TORCH
  fi
  [[ -n ${python:-} ]] || die "python3 was not found: install the package python3."
}

# Prints the path of an nvcc of CUDA 13, which LibTorch is built with; fails when there is none.
find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" nvcc /usr/local/cuda/bin/nvcc \
    "$SWIATTN_DEPS/nvcc/nvidia/cu13/bin/nvcc" "${torch:+$torch/../nvidia/cu13/bin/nvcc}"; do
    have "$candidate" || continue
    if "$candidate" --version 2>/dev/null | grep -q 'release 13\.'; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# As many compilers at a time as there are cores, but no more than one for every 2 GiB of memory
# that this machine, or the container we are in, has.
compile_jobs() {
  local kib limit jobs
  kib=$(awk '$1 == "MemTotal:" {print $2}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [[ $limit != max ]] && ((limit / 1024 < kib)); then kib=$((limit / 1024)); fi
  jobs=$((kib / 1024 / 1024 / 2))
  ((jobs <= $(nproc))) || jobs=$(nproc)
  ((jobs >= 1)) || jobs=1
  echo "$jobs"
}
