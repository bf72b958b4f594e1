#!/usr/bin/env bash
# Run a command as a named step of make and report how long it took.
#
#     scripts/step.sh NAME COMMAND ...    runs the command; appends its times to $STEPS_FILE
#     scripts/step.sh --summary           prints the steps since $STEPS_START and the time since then
#
# Seconds are wall-clock; "cpu" is the processor time of the command and its children. Steps may overlap.
set -uo pipefail
file=${STEPS_FILE:?names the file that collects the times}
start=${STEPS_START:?seconds since 1970 at which make was started}

if [ "$1" = --summary ]; then
    awk -F '\t' -v start="$start" -v now="$EPOCHREALTIME" '
        $1 >= start { printf "%8.1f s  (cpu %6.1f s)  %s\n", $2, $3, $4 }
        END { printf "%8.1f s                  total since make was started\n", now - start }' "$file"
    exit
fi

name=$1
shift
mkdir -p "$(dirname "$file")"
begin=$EPOCHREALTIME
"$@"
status=$?
end=$EPOCHREALTIME
# the second line of `times` is the processor time of the children, as in "1m2.345s 0m0.678s"
times >"$file.$$" # not in a pipe: a subshell has children of its own
cpu=$(awk 'NR == 2 { gsub(/[ms]/, " "); print $1 * 60 + $2 + $3 * 60 + $4 }' "$file.$$")
rm -f "$file.$$"
wall=$(awk -v a="$begin" -v b="$end" 'BEGIN { print b - a }')
printf '%s\t%s\t%s\t%s\n' "$begin" "$wall" "$cpu" "$name" >>"$file"
printf '== %s: %.1f s (cpu %.1f s)\n' "$name" "$wall" "$cpu"
exit $status
