#!/bin/sh
# In the guest: gpu-brokerd owns the real driver's render node, as a user with nothing but the group
# render, and clients that are other users work through it.
#
#   broker.sh DIRECTORY-OF-GPU-BROKER DIRECTORY-OF-C-PROGRAMS PROGRAM-OF-THE-TESTS
set -eu
binaries=$1
programs=$2
tests=$3
run=/run/vm/broker
. "$(dirname "$0")/clients"
# A system call that the daemon's list lacks ends it.
export GPU_BROKER_SANDBOX=kill

as 4000 strace -f -qq -e trace=ioctl -o "$run/ioctls" \
    "$binaries/gpu-brokerd" --socket "$socket" --config "$run/config" --device "$node" 2>"$run/log" &
wait_for "the daemon serves" as 4001 "$binaries/gpu-broker" status --json
mv "$run/output" "$run/status"
grep -q '"driver": *"i915"' "$run/status" || fail "status says $(cat "$run/status")"
[ "$(as 4001 head -c 1 "$node" 2>&1 | grep -c 'Permission denied')" = 1 ] || fail "a client may open $node"
echo "ok gpu-brokerd serves the real driver as an unprivileged user"

daemon=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$run/status" | head -n 1)
for thread in /proc/"$daemon"/task/*/status; do
    # Threads of the pool come and go.
    grep -q '^Seccomp:[[:space:]]*2' "$thread" || [ ! -e "$thread" ] || fail "$thread is not confined"
done
! grep 'not confined' "$run/log" || fail "the kernel has what it takes"
echo "ok gpu-brokerd is confined"

# Every session has a default context, which is live from the start.
created() { grep -c 'I915_GEM_CONTEXT_CREATE' "$run/ioctls" || true; }
# creates N PROGRAM ARGS…: a client that makes the driver make so many contexts.
creates() {
    expected=$1
    shift
    before=$(created)
    as 4001 "$@" >"$run/output" 2>&1 || fail "$1: $(cat "$run/output")"
    made=$(($(created) - before))
    [ "$made" = "$expected" ] || fail "$1 made the driver make $made contexts, not $expected"
}
creates 1 "$programs/protos"
echo "ok proto-contexts that are destroyed unused never reach the driver"
creates 2 "$programs/fill"
grep -q 'stored 0x600dcafe' "$run/output" || fail "fill.c: $(cat "$run/output")"
echo "ok the C example draws, with one CONTEXT_CREATE_EXT for its context"
as 4001 "$programs/own_memory" >"$run/output" 2>&1 || fail "own_memory.c: $(cat "$run/output")"
echo "ok the GPU works on a client's own memory"

# What the CPU does with memory reaches the driver, and it tells how long a session had the engines.
asked() { grep -c "$1" "$run/ioctls" || true; }
caching=$(asked I915_GEM_SET_CACHING) domain=$(asked I915_GEM_SET_DOMAIN)
rm -f "$run/rounds"
mkfifo "$run/rounds"
as 4001 "$programs/access" <"$run/rounds" >"$run/access" 2>&1 &
access=$!
exec 9>"$run/rounds"
rendered() {
    as 4001 "$binaries/gpu-broker" status --fdinfo |
        awk '$1 == "drm-client-name:" { mine = $2 == "access" } mine && $1 == "drm-engine-render:" { print $2 }'
}
# more_than NANOSECONDS: the session had the render engine for longer, which is left in now.
more_than() { now=$(rendered) && [ "${now:-0}" -gt "$1" ] && echo "$now"; }
echo go >&9
wait_for "the first round" grep -q 'round 1' "$run/access"
wait_for "engine time of the first round" more_than 0
first=$(cat "$run/output")
echo go >&9
wait_for "the second round" grep -q 'round 2' "$run/access"
wait_for "engine time of the second round" more_than "$first"
as 4001 "$binaries/gpu-broker" status >"$run/output"
grep -q 'live .*unknown' "$run/output" || fail "contexts' engine time is not unknown: $(cat "$run/output")"
exec 9>&-
wait $access || fail "access.c: $(cat "$run/access")"
echo "ok the driver tells how long a session had the engines, and not which of its contexts"
made="$(($(asked I915_GEM_SET_CACHING) - caching)) $(($(asked I915_GEM_SET_DOMAIN) - domain))"
[ "$made" = "2 3" ] || fail "SET_CACHING and SET_DOMAIN reached the driver $made times, not 2 3"
echo "ok caching of memory that nobody maps, and every SET_DOMAIN, reach the driver"

# Who hangs the GPU is told, and others go on.
as 4001 "$programs/hang" >"$run/output" 2>&1 || fail "hang.c: $(cat "$run/output")"
as 4001 "$programs/fill" >"$run/output" 2>&1 || fail "fill.c after a hang: $(cat "$run/output")"
as 4001 "$binaries/gpu-broker" hang list >"$run/hangs"
grep -q '"hanger"' "$run/hangs" || fail "hang list says $(cat "$run/hangs")"
echo "ok a hang is its client's alone: EIO, guilty once, banned after some, named in hang list"

# Several confined clients, a daemon of their own, and every pixel as on the software GPU.
as 4000 env HOME=/tmp "$binaries/gpu-broker" demo --device "$node" --out /tmp/demo.png >"$run/output" 2>&1 ||
    fail "demo: $(cat "$run/output")"
cmp /tmp/demo.png cli/demo.png || fail "the demo's picture is not the software GPU's"
echo "ok the demo paints the same picture, byte for byte"

# Tests of the test runner, each with a daemon on the real driver.
#   holds COUNT WHAT FILTER…
holds() {
    count=$1 what=$2
    shift 2
    as 4000 env HOME=/tmp CARGO=/bin/true GPU_BROKER_TEST_DEVICE="$node" "$tests" --test-threads=1 "$@" \
        >"$run/output" 2>&1 || fail "$(tail -n 40 "$run/output")"
    grep -q "test result: ok. $count passed" "$run/output" || fail "not $count tests of $what: $(tail -n 3 "$run/output")"
    echo "ok $what, on the real driver"
}
# Not here, of the tests of own memory: what a batch writes where nothing is mapped is lost in the kernel's
# scratch page, so that the work does not fail. One that makes ten thousand buffers takes minutes here.
holds 6 "the tests of own memory hold" \
    userptr::a_ userptr::access_ userptr::detached_ userptr::memory_the_ userptr::the_ --skip hostile --skip preload
holds 7 "hostile clients with memory of their own harm nobody" hostile::userptr --skip ten_thousand
# Not here: `engines::shares`, whose weights and counters are our scheduler's; the kernel has no weights, and
# counts time by file. Nothing hangs here, so the driver has its usual patience: of a chain of fifty that wait
# for each other, one that is taken for hung on a busy machine leaves the others waiting for ever.
patience() {
    for engine in /sys/class/drm/card*/engine/*; do
        echo "$1" >"$engine/heartbeat_interval_ms"
        echo "$2" >"$engine/preempt_timeout_ms"
    done
}
patience 2500 640
holds 4 "batches take turns, and priorities count" engines::schedule
patience 200 100
holds 5 "work of who is gone ends, or runs to its end" engines::lifetimes
# Not here: dumps and what they show, which the kernel keeps for root; faults that are told from hangs; resets of
# the whole device, of which parity.sh has a case.
holds 4 "who hangs an engine is banned, and nobody else is harmed" engines::hangs hangs::a_client --skip containers
# Not here: the random comparison, which takes minutes of emulation.
holds 3 "the shared status page says what is true" shared_status::what_ shared_status::a_hang

# A program that knows nothing of the broker gives the GPU its memory. Not here: `threads` and `scattered`,
# which take a minute of emulation each, and `contents` and `stacks`, which are about the preload alone.
for story in overlaps refusals changes forks closes waits protects numbers; do
    as 4001 env LD_PRELOAD="$binaries/libgpu_broker_preload.so" XDG_RUNTIME_DIR=/tmp \
        "$programs/userptr" $story >"$run/output" 2>&1 || fail "userptr.c $story: $(cat "$run/output")"
done
echo "ok the GPU works on ordinary memory of an unmodified program"

# The GPU goes away.
echo 1 >/sys/bus/pci/devices/0000:00:02.0/remove
left=60
while as 4001 "$programs/fill" >"$run/output" 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || fail "work goes on without a GPU"
    sleep 1
done
kill -0 "$daemon" 2>/dev/null || fail "the daemon ended with its GPU"
echo "ok the daemon survives its GPU, and its clients are told: $(tail -n 1 "$run/output")"
