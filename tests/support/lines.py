"""A serial line that loses and changes bytes."""

import os
import subprocess
import threading


class NoisyLine:
    """Joins a serial port to a pipe; each way it changes bytes and adds some, now and then."""

    def __init__(self, process: subprocess.Popen, every: int) -> None:
        self.master, slave = os.openpty()
        self.path, self.slave = os.ttyname(slave), slave
        self.every, self.process = every, process
        self.threads = [
            threading.Thread(target=self.copy, args=pair, daemon=True)
            for pair in (
                (self.master, process.stdin.fileno()),
                (process.stdout.fileno(), self.master),
            )
        ]
        for thread in self.threads:
            thread.start()

    def copy(self, source: int, target: int) -> None:
        count = 0
        while True:
            try:
                data = os.read(source, 256)
            except OSError:
                return
            if not data:
                return
            out = bytearray()
            for byte in data:
                count += 1
                out.append(byte ^ 0x10 if count % self.every == 0 else byte)
                if count % self.every == self.every // 2:
                    out += b"\xa5\x5a noise"
            os.write(target, out)
