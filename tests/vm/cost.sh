#!/bin/sh
# In the guest: what the broker costs beside the driver itself, as the section of BENCHMARKS.md.
#
#   cost.sh GPU-BROKER PROGRAM
set -eu
run=/run/vm/cost
. "$(dirname "$0")/clients"

as 4000 "$1" daemon --config "$run/config" --device "$node" 2>"$run/log" &
wait_for "the daemon serves" as 4001 "$1" status
# With the group: it uses the node itself too.
as 4000 "$2" "$node" >"$run/rows" || { cat "$run/rows"; exit 1; }
cat <<END

## On the real driver

i915 of Linux $(uname -r) in the test guest (emulated processor and GPU, so every time is tens of times
that of a real machine; the ratios compare two ways through the same guest). Medians of 31 slices; a
ratio is the median of the slices' ratios. Once more with \`tests/vm/run cost\`, which prints this section.

END
cat "$run/rows"
