#!/usr/bin/env python3
"""Joins a session that a kernel debugger shares, and works in it.

    python3 join.py [path of kd] tcp:server=HOST,port=5005,password=...

Only the standard library is needed: kd -remote ... -json does the rest. Each
line that it writes is a JSON object, each line that it reads is a request
(console/JSON.md). The example waits for a stop, breaks in if there is none,
makes a step, lets the target go, and leaves; the session goes on without it.
"""
import json
import queue
import subprocess
import sys
import threading


class Session:
    """A client of a shared session. Requests may come from one thread."""

    def __init__(self, kd, transport, on_event=None):
        self.process = subprocess.Popen(
            [kd, "-remote", transport, "-json"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self.on_event = on_event or (lambda event: None)
        self.replies = queue.Queue()
        self.last = 0
        self.hello = None
        self.ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            message = json.loads(line)
            kind = message["type"]
            if kind == "hello":
                self.hello = message
                self.ready.set()
            elif "id" in message and kind in ("result", "ack", "error"):
                self.replies.put(message)
            else:
                self.on_event(message)
        self.replies.put(None)
        self.ready.set()

    def request(self, **fields):
        """Sends one request and waits for its answer, whatever else happens."""
        self.last += 1
        fields["id"] = self.last
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()
        while True:
            reply = self.replies.get()
            if reply is None:
                raise ConnectionError("the session has ended")
            if reply["id"] == self.last:
                return reply

    def command(self, line):
        """Runs a command line and returns its text. While the target runs this
        waits until it is the line's turn."""
        reply = self.request(command=line)
        if not reply.get("ok"):
            raise RuntimeError(reply.get("error", {}).get("message", reply.get("message")))
        self.stop = reply.get("stop")  # only if the command has brought a new one
        return reply["output"]

    def wait(self, timeout):
        """Waits until the target stands; None if it does not within timeout
        seconds. Nothing is done to the target."""
        reply = self.request(do="wait", timeout=timeout)
        return reply.get("stop", {}) if reply["type"] == "ack" else None

    def leave(self):
        self.request(do="leave")
        self.process.stdin.close()
        return self.process.wait()


def main():
    kd = sys.argv[1] if len(sys.argv) > 2 else "kd"
    session = Session(kd, sys.argv[-1])
    session.ready.wait()
    if session.hello is None:
        sys.exit("the session could not be joined")
    print("joined", session.hello["session"]["program"], "as client", session.hello["session"]["client"])

    stop = session.wait(0.5)
    if stop is None:
        print("the target runs; breaking in")
        session.request(do="breakin")
        stop = session.wait(60)
    print("stopped:", stop["reason"])

    print(session.command("? 2+2").strip())
    session.command("p")
    print("stopped again:", session.stop["reason"])

    # g has its result at the next stop, which may be far away. So it is sent and
    # not waited for.
    session.process.stdin.write(json.dumps({"command": "g"}) + "\n")
    session.process.stdin.flush()
    stop = session.wait(0.5)
    print("runs" if stop is None else "stopped: " + stop["reason"])
    sys.exit(session.leave())


if __name__ == "__main__":
    main()
