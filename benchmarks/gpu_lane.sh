#!/usr/bin/env bash
# The GPU lane on a machine with CUDA: environment, calibration, the standard suites with TF32 off and on.
#
#     benchmarks/gpu_lane.sh FOLDER [JOBS]
#
# PYTHON names the interpreter (default: python), BUDGET_OFF and BUDGET_ON the budgets of the suites with TF32 off and on
# (default: standard and quick: what is red is shrunk and blamed, which takes longer), SECONDS_EACH the longest that one
# component may take (default: 140). Components run side by side, JOBS at a time (default: 24, which is all of them): so
# the whole takes at most three times SECONDS_EACH and a minute. With TF32 on, where almost everything fails and is shrunk,
# a component that is out of time is run again at f32 alone.
# Every component has a report in FOLDER/off/NAME and FOLDER/on/NAME; FOLDER/figures.txt sums up. Exit status 0 if TF32
# off is green everywhere, and what is red with TF32 on is attributed to it or passes.
set -u
folder=$(mkdir -p "${1:?usage: gpu_lane.sh FOLDER [JOBS]}" && cd "$1" && pwd)
jobs=${2:-24}
python=${PYTHON:-python}
budget_off=${BUDGET_OFF:-standard}
budget_on=${BUDGET_ON:-quick}
longest=${SECONDS_EACH:-140}
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 TERM=dumb
lane=(--port-device gpu --reference-device cuda)

MLX_ENABLE_TF32=0 "$python" -m parity env "${lane[@]}" --json >"$folder/env_off.json" 2>"$folder/env_off.err" || {
    cat "$folder/env_off.err"
    exit 2
}
MLX_ENABLE_TF32=1 "$python" -m parity env "${lane[@]}" --json >"$folder/env_on.json" 2>"$folder/env_on.err"
MLX_ENABLE_TF32=0 "$python" -m parity calibrate "${lane[@]}" --write "$folder/cuda.json" >"$folder/calibrate.txt" 2>&1
MLX_ENABLE_TF32=1 "$python" -m parity calibrate "${lane[@]}" --write "$folder/refused.json" >"$folder/refused.txt" 2>&1
echo "calibration with TF32 on: status $? (2: refused)" >>"$folder/refused.txt"

MLX_ENABLE_TF32=0 "$python" benchmarks/layer_norm_gradient.py >"$folder/layer_norm.txt" 2>&1
echo "status $?" >>"$folder/layer_norm.txt"

one() { # off|on, component, options
    local tf32=0 budget=$budget_off
    [ "$1" = on ] && tf32=1 budget=$budget_on
    MLX_ENABLE_TF32=$tf32 timeout "$longest" "$python" -m parity run "$2" --profile canonical --budget "$budget" --seed 0 \
        --port-device gpu --reference-device cuda --out "$folder/$1/$2" "${@:3}" >"$folder/$1/$2.txt" 2>&1
    echo "$?" >"$folder/$1/$2.status"
}
export -f one
export folder python budget_off budget_on longest
mkdir -p "$folder/off" "$folder/on"
"$python" -c 'from parity.suites import PAIRS; print(*(pair.name for pair in PAIRS), sep="\n")' >"$folder/names.txt"
for lane_of in off on; do
    start=$SECONDS
    xargs -P "$jobs" -I NAME bash -c "one $lane_of NAME" <"$folder/names.txt"
    echo "TF32 $lane_of: $((SECONDS - start)) s" >>"$folder/seconds.txt"
done
grep -lx 124 "$folder"/on/*.status | xargs -r -n 1 basename -s .status |
    xargs -r -P "$jobs" -I NAME bash -c "one on NAME --rung f32"
"$python" benchmarks/gpu_lane_figures.py "$folder" | tee "$folder/figures.txt"
exit "${PIPESTATUS[0]}"
