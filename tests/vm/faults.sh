#!/bin/sh
# In the guest: hardware that fails, and what the driver makes of it. Each case ends with a GPU that works.
set -eu
smoke=$1
fault=/run/vm/fault
node=/dev/dri/renderD128
device=/sys/bus/pci/devices/0000:00:02.0
debug=/sys/kernel/debug/dri/0

fail() {
    echo "FAILED: $*"
    exit 1
}

# Heartbeats and preemption give up sooner than by default.
hasten() {
    for engine in /sys/class/drm/card*/engine/*; do
        echo 200 >"$engine/heartbeat_interval_ms"
        echo 100 >"$engine/preempt_timeout_ms"
    done
}

# wait_for SECONDS COMMAND…
wait_for() {
    left=$1
    shift
    while ! "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "in vain: $*"
        sleep 1
    done
}

# logged TEXT: the kernel has said so since the case began.
# mark TEXT: a case begins; holds TEXT: it held.
mark() { begun=$(date +%s); echo "faults.sh: $1" >/dev/kmsg; marker=$1; }
logged() { dmesg | sed "1,/faults.sh: $marker\$/d" | grep -q "$1"; }

holds() { echo "ok $1 ($(($(date +%s) - begun)) s)"; }

works() { [ -c $node ] && "$smoke" stores >/dev/null; }

hasten
works || fail "it does not work to begin with"

mark "an event is lost"
$fault event
"$smoke" stores >/tmp/lost 2>&1 || true
wait_for 60 works
logged "Resetting .* for" || logged "GPU HANG" || fail "nothing was reset"
holds "a lost context-switch event is recovered from"

mark "interrupts are lost"
$fault interrupt
"$smoke" stores >/tmp/lost 2>&1 || true
$fault
wait_for 60 works
holds "lost interrupts are recovered from"

mark "forcewake is not acknowledged"
$fault forcewake
cat $debug/i915_forcewake_user >/dev/null 2>&1 || true
"$smoke" stores >/tmp/lost 2>&1 || true
$fault
wait_for 60 works
holds "a missing forcewake acknowledgement is survived"

mark "the device is removed and found again"
echo 1 >$device/remove
[ ! -e $node ] || fail "the node is still there"
echo 1 >/sys/bus/pci/rescan
wait_for 60 test -c $node
hasten
wait_for 60 works
holds "the device can be removed and found again"

mark "the device vanishes while it works"
"$smoke" hangs >/tmp/lost 2>&1 &
sleep 1
$fault unplugged
echo 1 >$device/remove
[ ! -e $node ] || fail "the node is still there"
wait
# The driver must not meet the device before it answers again.
/run/modules/busybox rmmod i915
echo 1 >/sys/bus/pci/rescan
$fault
/run/vm/reload
wait_for 60 test -c $node
hasten
wait_for 60 works
holds "a device that vanished under load and came back works"

mark "the driver is unloaded and loaded again"
/run/vm/reload
[ -c $node ] || fail "the node is not back"
hasten
wait_for 60 works
holds "the driver can be unloaded and loaded again"

mark "a reset is ignored"
$fault reset
"$smoke" errors >/tmp/lost 2>&1 && fail "the reset was not needed"
wait_for 60 logged "Failed to reset chip\|declaring wedged\|GPU recovery timed out"
$fault
"$smoke" stores >/tmp/lost 2>&1 && fail "a wedged GPU works"
holds "a GPU that cannot be reset is wedged"
