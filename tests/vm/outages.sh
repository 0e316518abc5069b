#!/bin/sh
# In the guest: gpu-brokerd, as a user with nothing but the group render, while its GPU, its driver or
# its kernel is in trouble. Its clients are told, and it serves new ones as soon as that is possible.
#
#   outages.sh DIRECTORY-OF-GPU-BROKER DIRECTORY-OF-C-PROGRAMS
set -eu
binaries=$1
programs=$2
device=/sys/bus/pci/devices/0000:00:02.0
run=/run/vm/outages
. "$(dirname "$0")/clients"

# The daemon as a user with the group, and with at most so many file descriptors.
start() {
    node=$(ls /dev/dri/renderD* | head -n 1)
    exec_as 4000 prlimit --nofile="$1:$1" "$binaries/gpu-brokerd" --socket "$socket" --config "$run/config" \
        --device "$node" 2>>"$run/log" &
    daemon=$!
    wait_for "the daemon serves" as 4001 "$binaries/gpu-broker" status
}

begun=$(date +%s)
# New clients are told how it went, and so is the log.
gone() {
    as 4001 "$programs/fill" >"$run/gone" 2>&1 && fail "a GPU that is gone works"
    grep -q 'device-gone\|GPU was' "$run/gone" || fail "a client of a GPU that is gone: $(cat "$run/gone")"
    wait_for "the log says how it went" grep -q "is gone: $1" "$run/log"
}

holds() { echo "ok $1 ($(($(date +%s) - begun)) s)"; }

alive() { kill -0 "$daemon" 2>/dev/null || fail "the daemon ended"; }
serves() { wait_for "new clients are served" as 4001 "$programs/fill"; }

# A client that works until it is told not to, or stopped.
begin_work() {
    touch "$run/go"
    exec_as 4002 "$programs/outage" works "$run/go" >"$run/worker" 2>&1 &
    worker=$!
    wait_for "a client works" grep -q works "$run/worker"
}

# It was told of a device that is gone: by an epitaph, or when it submitted, at once.
told_of_loss() {
    wait "$worker" || fail "the client: $(cat "$run/worker")"
    grep -qE 'then -104:|device-gone' "$run/worker" || fail "the client was not told: $(cat "$run/worker")"
}

# The node as udev would leave it. It has another number if the old one was still open somewhere.
nodes() { ls /dev/dri/renderD* 2>/dev/null | grep -q .; }
found() {
    wait_for "the node is back" nodes
    chgrp "$render_gid" /dev/dri/renderD*
    chmod 0660 /dev/dri/renderD*
}

# The innocent client went on until it was told to stop.
witnessed() {
    rm "$run/go"
    wait "$worker" || fail "the witness: $(cat "$run/worker")"
    grep -q 'then 0:' "$run/worker" || fail "the witness: $(cat "$run/worker")"
}

start 4096

begin_work
as 4001 "$programs/outage" memory 0x80000000 >"$run/output" 2>&1 || fail "$(cat "$run/output")"
holds "work that needs more memory than there is: $(head -n 1 "$run/output")"
# The rules say so. The kernel's own ENOSPC cannot be had through them: every object comes to it pinned, by
# the size of address space that it gave itself (48 bits, whatever the device), at a place of its own in the
# submission; and what else lies there it may put out. What it places itself, its copy of a batch for the copy
# engine, would find no room only in 256 TiB of objects in one list.
as 4001 "$programs/outage" space >"$run/output" 2>&1 || fail "$(cat "$run/output")"
holds "two objects at one place: $(head -n 1 "$run/output")"
witnessed
holds "beside both a client went on: $(tail -n 1 "$run/worker")"

begin_work
echo 1 >$device/remove
told_of_loss
alive
gone "it was unplugged"
echo 1 >/sys/bus/pci/rescan
found
serves
alive
holds "a GPU unplugged under load and plugged in again: $(tail -n 1 "$run/worker")"

begin_work
echo 0000:00:02.0 >/sys/bus/pci/drivers/i915/unbind
told_of_loss
alive
gone "its driver was unloaded"
wait_for "nobody uses the driver" /run/modules/busybox rmmod i915
/run/vm/reload
found
serves
alive
holds "a driver unloaded and loaded again: $(tail -n 1 "$run/worker")"

for engine in /sys/class/drm/card*/engine/*; do
    echo 200 >"$engine/heartbeat_interval_ms"
    echo 100 >"$engine/preempt_timeout_ms"
done
/run/vm/fault reset
as 4003 "$programs/hang" >"$run/hang" 2>&1 || true
wedged() { as 4001 "$binaries/gpu-broker" status | grep -q wedged; }
wait_for "status says that it is wedged" wedged
as 4001 "$programs/fill" >"$run/output" 2>&1 && fail "a wedged GPU works"
grep -q 'device-wedged' "$run/output" || fail "a client of a wedged GPU: $(cat "$run/output")"
told=$(tail -n 1 "$run/output")
as 4001 "$binaries/gpu-broker" doctor 2>/dev/null | grep -q 'GPU is wedged' || fail "doctor says nothing"
alive
/run/vm/fault
echo 0000:00:02.0 >/sys/bus/pci/drivers/i915/unbind
echo 0000:00:02.0 >/sys/bus/pci/drivers/i915/bind
found
serves
alive
holds "a wedged GPU: $told; it serves again once the driver has been bound anew"

kill "$daemon"
wait "$daemon" || true
# All of it waits until no more can be had, which on a busy machine is longer than the driver waits: it was
# loaded with request_timeout_ms=0, which it looks at only then.
for engine in /sys/class/drm/card*/engine/*; do
    echo 0 >"$engine/heartbeat_interval_ms"
done
start 4096
exec_as 4003 "$programs/outage" ring >"$run/ring" 2>&1 &
stuck=$!
waits() {
    before=$(wc -l <"$run/ring")
    sleep 3
    [ "$before" -gt 0 ] && [ "$(wc -l <"$run/ring")" = "$before" ]
}
wait_for "EXECBUF waits for room in a ring" waits
begin_work
serves
waits || fail "EXECBUF did not wait: $(tail -n 1 "$run/ring")"
witnessed
kill -USR1 "$stuck"
wait "$stuck" || fail "$(tail -n 2 "$run/ring")"
holds "an EXECBUF that waits in the kernel delays its client alone: $(tail -n 1 "$run/ring"); beside it $(tail -n 1 "$run/worker")"

kill "$daemon"
wait "$daemon" || true
start 96
begin_work
as 4001 "$programs/outage" fds >"$run/hoard" 2>&1 || fail "$(cat "$run/hoard")"
witnessed
serves
alive
holds "more fences than file descriptors: $(head -n 1 "$run/hoard"); beside it $(tail -n 1 "$run/worker")"
