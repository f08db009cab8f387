#!/bin/sh
# Every stage with a limit, a log and a JSON file of its own: none can lose another's.
#   run.sh [--budget SECONDS] [--only STAGE] [--device cuda|cpu] [--seconds S] [--files FOLDER] [--out FOLDER]
set -u
here=$(cd "$(dirname "$0")" && pwd)
budget=720 only= device=cuda seconds=0.5 files="$here/files" out="$here/results"
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "$1 must be followed by a value" >&2; exit 2; }
    case $1 in
        --budget) budget=$2 ;;
        --only) only=$2 ;;
        --device) device=$2 ;;
        --seconds) seconds=$2 ;;
        --files) files=$2 ;;
        --out) out=$2 ;;
        *) echo "option must be one of --budget, --only, --device, --seconds, --files and --out, got $1" >&2; exit 2 ;;
    esac
    shift 2
done
case $budget in ''|*[!0-9]*) echo "--budget must be whole seconds, got $budget" >&2; exit 2 ;; esac
stages="environment:30 layers:120 networks:260 kernels:60 parity:80 memory:50 training:60 serving:100 torch:120 tensorrt:120"
case " $stages" in *" $only:"*) ;; *) [ -z "$only" ] || { echo "--only must be one of $(echo "$stages" | sed 's/:[0-9]*//g'), got $only" >&2; exit 2; } ;; esac
mkdir -p "$out" || exit 1
began=$(date +%s) failed=0
for entry in $stages; do
    stage=${entry%%:*} limit=${entry##*:}
    [ -z "$only" ] || [ "$only" = "$stage" ] || continue
    left=$((budget - $(date +%s) + began))
    [ -z "$only" ] || limit=$budget
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 5 ]; then echo "$stage: not run, the budget of $budget s is spent"; continue; fi
    started=$(date +%s)
    timeout -k 5 $((limit + 20)) "${PYTHON:-python3}" "$here/measure.py" "$stage" --device "$device" --seconds "$seconds" \
        --files "$files" --out "$out" --limit "$limit" >"$out/$stage.log" 2>&1
    code=$?
    echo "$stage: exit code $code after $(($(date +%s) - started)) s: $(tail -n 1 "$out/$stage.log")"
    [ "$code" -eq 0 ] || failed=$code
done
exit "$failed"
