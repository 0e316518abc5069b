#!/bin/sh
# In the guest: what the broker costs beside the driver itself, as the section of BENCHMARKS.md.
#
#   cost.sh GPU-BROKER PROGRAM
set -eu
node=/dev/dri/renderD128
run=/run/vm/cost
export GPU_BROKER_SOCKET=$run/broker.sock
mkdir -p "$run"
chmod 0755 /run /run/vm "$run"
chown 4000:4000 "$run"
printf 'socket_mode = "0666"\n' >"$run/config"

# as UID COMMAND…: with the group that may use the node, and nothing else.
as() {
    user=$1
    shift
    setpriv --reuid="$user" --regid="$user" --groups="$(stat -c %g $node)" --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
}
as 4000 "$1" daemon --config "$run/config" --device $node 2>"$run/log" &
left=60
while ! as 4001 "$1" status >/dev/null 2>"$run/error"; do
    left=$((left - 1))
    [ $left -gt 0 ] || { echo "FAILED: the daemon does not serve"; cat "$run/error" "$run/log"; exit 1; }
    sleep 1
done
as 4001 "$2" $node >"$run/rows" || { cat "$run/rows"; exit 1; }
cat <<END
## On the real driver

i915 of Linux $(uname -r) in the test guest (emulated processor and GPU, so every time is tens of times
that of a real machine; the ratios compare two ways through the same guest). Medians of 31 slices; a
ratio is the median of the slices' ratios. Once more with \`tests/vm/run cost\`, which prints this section.

END
cat "$run/rows"
