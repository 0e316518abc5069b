#!/bin/sh
# Performs the cases of gpu-broker-parity and leaves what came of them in OUTPUT, a directory.
#
#   parity.sh driver DIRECTORY-OF-GPU-BROKER OUTPUT   in the guest: on the driver itself (`direct`) and
#                                                     through gpu-brokerd on it (`i915`)
#   parity.sh soft DIRECTORY-OF-GPU-BROKER OUTPUT     on any machine: through gpu-brokerd on the
#                                                     software GPU (`soft`)
#
# All of it as a user with nothing but the group render; what depends on privileges once more as root,
# or in a class that may do what root may.
set -eu
mode=$1 binaries=$2 output=$3
cases=$binaries/gpu-broker-parity
preload=$binaries/libgpu_broker_preload.so
export GPU_BROKER_SANDBOX=kill

# The daemon's configuration: who comes by the second socket may do what root may.
configure() {
    cat >"$run/config" <<END
socket_mode = "0666"
[engines]
heartbeat_interval_ms = 200
preempt_timeout_ms = 100
[[listener]]
name = "root"
socket = "$run/root.sock"
socket_mode = "0666"
[[class]]
name = "root"
match = { listener = ["root"] }
rights.priority_max = 1023
rights.clear_bannable = true
rights.reset_count = true
END
}

# through SOCKET IDENTITY: the cases, asked of the daemon.
through() {
    through=$1
    shift
    GPU_BROKER_SOCKET=$through LD_PRELOAD=$preload "$cases" run --as "$@"
}

if [ "$mode" = soft ]; then
    run=$(mktemp -d)
    trap 'kill $daemon 2>/dev/null || true; rm -rf "$run"' EXIT
    configure
    soft() {
        "$binaries/gpu-brokerd" --socket "$run/broker.sock" --config "$run/config" --device soft 2>"$run/log" &
        daemon=$!
        left=100
        until GPU_BROKER_SOCKET=$run/broker.sock "$binaries/gpu-broker" status >/dev/null 2>&1; do
            left=$((left - 1))
            [ $left -gt 0 ] || { cat "$run/log"; exit 1; }
            sleep 0.1
        done
    }
    soft
    {
        through "$run/root.sock" root
        through "$run/broker.sock" user
    } >"$output/soft"
    kill "$daemon"
    wait "$daemon" || true
    sed -i 's/^\[engines\]$/&\nreset = "device"/' "$run/config"
    soft
    through "$run/broker.sock" user --device-resets >>"$output/soft"
    exit
fi

run=/run/vm/parity
. "$(dirname "$0")/clients"
configure

# device_resets COMMAND…: while a hang resets the whole device.
device_resets() {
    for how in /sys/kernel/debug/dri/*/i915_params/reset; do echo 1 >"$how"; done
    "$@"
    for how in /sys/kernel/debug/dri/*/i915_params/reset; do echo 2 >"$how"; done
}

# What depends on privileges first: root's counts of resets are then those of a device that had none.
{
    "$cases" run --as root
    as 4000 "$cases" run --as user
} >"$output/direct" || fail "on the driver itself"

exec_as 4000 "$binaries/gpu-brokerd" --socket "$socket" --config "$run/config" --device "$node" 2>"$run/log" &
daemon=$!
wait_for "the daemon serves" as 4001 "$binaries/gpu-broker" status
{
    as 4001 env GPU_BROKER_SOCKET="$run/root.sock" LD_PRELOAD="$preload" "$cases" run --as root
    as 4001 env LD_PRELOAD="$preload" "$cases" run --as user
    device_resets as 4001 env LD_PRELOAD="$preload" "$cases" run --as user --device-resets
} >"$output/i915" || fail "through the daemon"
kill -0 $daemon || fail "the daemon ended"
device_resets as 4000 "$cases" run --as user --device-resets >>"$output/direct" || fail "resets of the driver's device"
