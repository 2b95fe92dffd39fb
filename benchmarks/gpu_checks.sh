#!/usr/bin/env bash
# Runs every check that needs a GPU, in a source checkout, within a time limit.
#
# usage: benchmarks/gpu_checks.sh OUT [MINUTES [OPTION...]]
#
# OUT gets gpu.md and gpu.json (its tables), gpu.log, tests.log
# (of tests/test_gpu.py) and doctor.log. MINUTES is 8 by default. What is done when the
# time is up is kept. OPTIONs are those of drtf bench gpu, such as --quick.
#
# Python, with TensorFlow and the other requirements, is $PYTHON or .venv/bin/python or
# python3. Where drtf is not installed, set INSTALL=1: it is then installed, without
# its requirements, into a temporary folder.
set -u
cd "$(dirname "$0")/.." || exit
out=${1:?usage: benchmarks/gpu_checks.sh OUT [MINUTES [OPTION...]]}
seconds=$((60 * ${2:-8}))
options=("${@:3}")
mkdir -p "$out"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

if [ "${INSTALL:-0}" = 1 ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-deps --no-build-isolation --no-index \
    --target "$site" . >"$out/install.log" 2>&1 || { cat "$out/install.log"; exit 1; }
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi

# check NAME LIMIT COMMAND...: run a command in some of the time that is left.
check() {
  local name=$1 limit=$2 code start=$SECONDS
  shift 2
  [ "$limit" -gt $((seconds - SECONDS)) ] && limit=$((seconds - SECONDS))
  [ "$limit" -gt 0 ] || { echo "$name: not run, the time was up"; return; }
  timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  echo "$name: exit code $code after $((SECONDS - start)) s; $(tail -n 1 "$out/$name.log" | cut -c1-200)"
}

SECONDS=0
drtf=("$python" -P -c 'from drtf.tools.main import main; main()')
check doctor 60 "${drtf[@]}" doctor
# The tests get the last third of the time.
check bench $((seconds * 2 / 3)) "${drtf[@]}" bench gpu --out "$out" --overwrite \
  --minutes "$(awk "BEGIN { print $seconds * 0.6 / 60 }")" "${options[@]}"
check tests "$seconds" "$python" -P -m pytest -p no:cacheprovider -v -m gpu tests/test_gpu.py
