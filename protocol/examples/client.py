#!/usr/bin/env python3
"""A client of gpu-brokerd in plain Python, written from WIRE.md alone.

Says HELLO, makes a context on the copy engine, submits a batch that does nothing, waits for its
fence, and prints what happened. Usage: client.py [SOCKET]
"""

import array
import mmap
import os
import select
import socket
import struct
import sys

HELLO, CONTEXT_CREATE, CONTEXT_DESTROY = 0x0001, 0x0101, 0x0102
CONTEXT_SET_PARAM, BUFFER_CREATE, BUFFER_MAP = 0x0103, 0x0301, 0x0302
EXECBUF, EPITAPH = 0x0401, 0x0F01
REPLY, REFUSED, EVENT = 1, 2, 4
MESSAGE_BYTES_MAX, FDS_PER_MESSAGE_MAX = 65536, 4
FENCE_FDS = 0x1
NO_RELOC, HANDLE_LUT, FENCE_OUT, SUPPORTS_48B = 0x800, 0x1000, 0x20000, 0x8
PARAM_ENGINES, VALUE_ENGINES = 0xA, 2
CLASS_COPY = 1
MI_BATCH_BUFFER_END = 0x0A << 23


class Refused(Exception):
    """The daemon said no; the session goes on."""


def default_socket():
    """Where the broker listens (section 1)."""
    if os.environ.get("GPU_BROKER_SOCKET"):
        return os.environ["GPU_BROKER_SOCKET"]
    if os.environ.get("XDG_RUNTIME_DIR"):
        return os.environ["XDG_RUNTIME_DIR"] + "/gpu-broker.sock"
    return "/run/gpu-broker/gpu-broker.sock"


def string(text):
    """A string as it is encoded (section 3)."""
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


class Fields:
    """Takes a body apart, field by field."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, layout):
        """One value of a struct layout."""
        (value,) = struct.unpack_from("<" + layout, self.body, self.at)
        self.at += struct.calcsize("<" + layout)
        return value

    def string(self):
        """A string."""
        length = self.take("Q")
        text = self.body[self.at : self.at + length].decode()
        self.at += length
        return text

    def end(self):
        """Nothing may be left over."""
        assert self.at == len(self.body), "the reply has bytes after its last field"


class Broker:
    """A connection: one session."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(path)
        self.seq = 0

    def request(self, opcode, body=b""):
        """One request and its answer: body and file descriptors."""
        self.seq += 1
        self.socket.send(struct.pack("<HHI", opcode, 0, self.seq) + body)
        room = socket.CMSG_LEN(FDS_PER_MESSAGE_MAX * array.array("i").itemsize)
        packet, ancillary, flags, _ = self.socket.recvmsg(
            MESSAGE_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC
        )
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC), "no broker"
        assert packet, "the broker closed the connection"
        answered, kind, seq = struct.unpack_from("<HHI", packet)
        fields = Fields(packet[8:])
        if kind == EVENT and answered == EPITAPH:
            sys.exit(f"the broker ended the session: [{fields.take('I')}] {fields.string()}")
        assert (answered, seq) == (opcode, self.seq), "an answer to another request"
        if kind == REPLY | REFUSED:
            errno, _code, name = fields.take("i"), fields.take("H"), fields.string()
            raise Refused(f"{name}: {fields.string()} (errno {errno})")
        assert kind == REPLY, "unknown header flags"
        return fields, list(fds)


def hello(broker):
    """Begins the session; answers its number and the device's name."""
    body = struct.pack("<HHHQ", 1, 0, 0, FENCE_FDS) + string("client.py")
    reply, _ = broker.request(HELLO, body)
    assert reply.take("H") == 1, "another major version"
    reply.take("H")  # minor
    assert reply.take("Q") & FENCE_FDS, "the daemon has no fences"
    session = reply.take("Q")
    for layout in "IIIIIQQIIII":  # limits
        reply.take(layout)
    driver, name = reply.string(), reply.string()
    return session, f"{name} ({driver})"


def create_context(broker):
    """A context whose slot 0 is the copy engine."""
    reply, _ = broker.request(CONTEXT_CREATE, struct.pack("<IQ", 0, 0))
    context = reply.take("I")
    reply.end()
    slots = struct.pack("<QHH", 1, CLASS_COPY, 0)
    engines = struct.pack("<QII", PARAM_ENGINES, 8 + 4, VALUE_ENGINES) + slots
    broker.request(CONTEXT_SET_PARAM, struct.pack("<I", context) + engines + struct.pack("<Q", 0))
    return context


def create_batch(broker):
    """A buffer that holds an empty batch."""
    reply, _ = broker.request(BUFFER_CREATE, struct.pack("<QIB", 4096, 0, 0))
    handle, size = reply.take("I"), reply.take("Q")
    reply.end()
    reply, fds = broker.request(BUFFER_MAP, struct.pack("<I", handle))
    offset, mapped = reply.take("Q"), reply.take("Q")
    reply.end()
    assert mapped == size and len(fds) == 1
    with mmap.mmap(fds[0], mapped, offset=offset) as memory:
        memory[:8] = struct.pack("<II", MI_BATCH_BUFFER_END, 0)
    os.close(fds[0])
    return handle


def execbuf(broker, context, batch):
    """Submits the batch; answers its GPU address and the fence."""
    flags = NO_RELOC | HANDLE_LUT | FENCE_OUT
    head = struct.pack("<IIQIIIIIIII", context, 1, flags, 0, 8, 0, 0, 0, 0, 0, 0)
    thing = struct.pack("<IIQQQQQ", batch, 0, 0, 0, SUPPORTS_48B, 0, 0)
    reply, fds = broker.request(EXECBUF, head + thing)
    count, has_fence = reply.take("I"), reply.take("I")
    addresses = [reply.take("Q") for _ in range(count)] or [0]
    reply.end()
    assert has_fence == 1 and len(fds) == 1
    return addresses[0], fds[0]


def wait(fence):
    """Waits for the fence; answers the errno of the work, 0 when it was done."""
    readable, _, _ = select.select([fence], [], [], 10)
    assert readable, "the batch did not end within 10 seconds"
    try:
        with socket.socket(fileno=os.dup(fence)) as peek:
            packet = peek.recv(8, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return 0  # a sync_file: readable is all that is known without FENCE_STATUS
    assert len(packet) == 8, "the broker died before the batch was done"
    return struct.unpack("<iI", packet)[0]


def main():
    """The whole conversation."""
    broker = Broker(sys.argv[1] if len(sys.argv) > 1 else default_socket())
    session, device = hello(broker)
    print(f"session {session} on {device}")
    context = create_context(broker)
    batch = create_batch(broker)
    address, fence = execbuf(broker, context, batch)
    print(f"context {context}: batch at {address:#x}")
    errno = wait(fence)
    os.close(fence)
    print("done" if errno == 0 else f"lost: {os.strerror(errno)}")
    try:
        broker.request(CONTEXT_DESTROY, struct.pack("<II", 0, 0))
    except Refused as refusal:
        print(f"refused, as it must be: {refusal}")
    broker.request(CONTEXT_DESTROY, struct.pack("<II", context, 0))
    return 0 if errno == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
