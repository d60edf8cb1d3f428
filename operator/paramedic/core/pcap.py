"""What ``tcpdump -tt -xx`` prints, made a capture file again.

tcpdump's own file format does not survive a container's log, which is text and mixes what it writes to its two outputs.
Its hexadecimal dump does. The file is that of libpcap (pcap-savefile(5)): link type LINUX_SLL, times in microseconds.
"""

import re
import struct
from collections import deque

_LINUX_SLL = 113
_SNAPSHOT_LENGTH = 262_144
_HEAD = re.compile(rb"(\d{1,10})\.(\d{6}) ")
_HEX = re.compile(rb"\s+0x[0-9a-f]{4,6}:((?: {1,3}[0-9a-f]{2}(?:[0-9a-f]{2})?){1,16})\s*$")
_LONGEST_LINE = 64 * 1024
_REMARKS = 6

_FILE_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, _SNAPSHOT_LENGTH, _LINUX_SLL)


class HexDump:
    """Takes the text in chunks of any size and gives the file, packet by packet; nothing before the first packet.

    ``packets`` counts them; ``remarks`` are the last lines that were neither (what tcpdump says besides).
    """

    def __init__(self) -> None:
        self.packets = 0
        self.remarks: deque[str] = deque(maxlen=_REMARKS)
        self._rest = b""
        self._time: tuple[int, int] | None = None
        self._data = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """The packets that have become complete; empty when there are none."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self._rest = b""  # no line of tcpdump's
        return b"".join(self._line(line) for line in lines)

    def end(self) -> bytes:
        """The last packet."""
        last = self._line(self._rest) if self._rest else b""
        self._rest = b""
        return last + self._packet()

    def _line(self, line: bytes) -> bytes:
        if self._time and (found := _HEX.match(line)):
            if len(self._data) < _SNAPSHOT_LENGTH:
                self._data += bytes.fromhex(found[1].decode())
            return b""
        if found := _HEAD.match(line):
            done = self._packet()
            self._time = int(found[1]) & 0xFFFFFFFF, int(found[2])
            return done
        if line.strip():
            self.remarks.append(line.decode(errors="replace").strip()[:200])
        return b""

    def _packet(self) -> bytes:
        if self._time is None or not self._data:
            self._time = None
            return b""
        (seconds, microseconds), data = self._time, bytes(self._data)
        self._time, self._data = None, bytearray()
        head = b"" if self.packets else _FILE_HEADER
        self.packets += 1
        return head + struct.pack("<IIII", seconds, microseconds, len(data), len(data)) + data
