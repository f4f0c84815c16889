"""The file through which shim.c is armed, and the daemon that has it preloaded."""
import mmap
import os
import struct

SHIM = os.environ.get("DDIMD_SHIM", "")
KINDS = ["none", "memory", "open", "write", "read", "descriptor", "thread", "device"]
FIELDS = ["kind", "error", "skip", "times", "own", "sites", "fired", "n_sites", "leak_bytes", "leak_descriptors"]
MAX_SITES = 4000
SIGKILL = -1  # as an error: the process is killed in the call


class Faults:
    """struct faults of shim.c."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as f:
            f.truncate(4 * (len(FIELDS) + len(KINDS)) + 8 * MAX_SITES)
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 0)

    def close(self):
        self.map.close()
        self.file.close()

    def __getattr__(self, name):
        return struct.unpack_from("i", self.map, 4 * FIELDS.index(name))[0]

    def set(self, **values):
        for name, value in values.items():
            struct.pack_into("i", self.map, 4 * FIELDS.index(name), value)

    def arm(self, kind, error, skip=0, times=1, own=False, sites=False):
        self.set(times=0)
        self.set(kind=KINDS.index(kind), error=error, skip=skip, own=own, sites=sites, fired=0)
        self.set(times=times)

    def disarm(self):
        self.set(times=0)
        return self.fired

    def calls(self, kind):
        return struct.unpack_from("i", self.map, 4 * (len(FIELDS) + KINDS.index(kind)))[0]

    def environment(self):
        return {"LD_PRELOAD": SHIM, "FAULTS": str(self.path)}
