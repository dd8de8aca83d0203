"""Forks a process that holds many objects, again and again, while it changes them.

    forks.py MIB ROUNDS

In each round two children are alive at once, and the first of them forks a child of its own. Each
child checks all objects that it sees against the sum of those that its parent had at the fork, which
comes by a pipe: the parent changes its own meanwhile. A process that changes objects checks
them at the end.
Exits with 0 when all of them found what they had to find. The last line is "fork us:" and how long
each fork of the parent took.
"""

import os
import random
import signal
import sys
import time
import zlib

# Seconds after which a process that hangs is ended, and for each MiB.
PATIENCE = 120
PATIENCE_EACH = 3
# What an object takes, nearly.
BYTES_EACH = 700


def record(random, number):
    """An object of several kinds of objects."""
    return [
        number,
        f"name {number} {random.random()}",
        number * 0.5,
        (number, str(number + 1), None),
        {"key": number, "bytes": b"x" * random.randrange(200)},
    ]


def sum_of(record):
    return zlib.crc32(repr(record).encode())


class Held:
    """Objects, and the sum of all of them, which is kept as they change."""

    def __init__(self, seed, count):
        self.random = random.Random(seed)
        self.records = [record(self.random, number) for number in range(count)]
        self.sum = self.count()

    def count(self):
        return sum(map(sum_of, self.records))

    def is_whole(self):
        return self.count() == self.sum

    def fork(self, go_on):
        """Has a child check what it sees, and then `go_on`. The child's number, and microseconds."""
        told, tell = os.pipe()
        os.write(tell, str(self.sum).encode())
        pair = fork(lambda: go_on() if self.count() == int(os.read(told, 100)) else 20)
        os.close(told)
        os.close(tell)
        return pair

    def change(self):
        """One is replaced, one is changed in place, and now and then many come and go."""
        at = self.random.randrange(len(self.records))
        self.sum -= sum_of(self.records[at])
        self.records[at] = record(self.random, self.random.randrange(1 << 40))
        self.sum += sum_of(self.records[at])

        at = self.random.randrange(len(self.records))
        self.sum -= sum_of(self.records[at])
        self.records[at][4]["more"] = self.random.random()
        self.records[at][1] += "."
        self.sum += sum_of(self.records[at])

        if self.random.randrange(1000) == 0:
            number = len(self.records) // 50
            for at in range(number):
                self.records[at], last = self.records[-1], self.records[at]
                self.sum -= sum_of(last)
                self.records.pop()
            for number in range(number):
                new = record(self.random, number)
                self.sum += sum_of(new)
                self.records.append(new)


def patience():
    return PATIENCE + PATIENCE_EACH * int(sys.argv[1])


def fork(child):
    """Has a child return what it is told to exit with. Its number, and microseconds."""
    sys.stdout.flush()
    begin = time.perf_counter()
    number = os.fork()
    took = time.perf_counter() - begin
    if number == 0:
        code = 3
        try:
            signal.alarm(patience())
            code = child()
        finally:
            os._exit(code)
    return number, took * 1e6


def await_while(held, children):
    """Changes what is held until all children are gone. Whether all of them exited with 0."""
    good = True
    while children:
        for _ in range(200):
            held.change()
        for child in list(children):
            number, status = os.waitpid(child, os.WNOHANG)
            if number:
                children.remove(child)
                if status != 0:
                    print(f"a child of {os.getpid()} ended with {status}")
                    good = False
    return good


def first_child(held, go):
    """Has a child of its own check while it changes everything itself."""
    # The second child was forked by now.
    os.read(go, 1)
    grandchild, _ = held.fork(lambda: 0)
    if not await_while(held, [grandchild]):
        return 11
    return 0 if held.is_whole() else 12


def round_of_forks(held):
    go, say = os.pipe()
    first, took = held.fork(lambda: first_child(held, go))
    for _ in range(2000):
        held.change()
    second, took_again = held.fork(lambda: 0 if held.is_whole() else 30)
    os.write(say, b"x")
    good = await_while(held, [first, second])
    os.close(go)
    os.close(say)
    if not held.is_whole():
        print("the parent lost something")
        good = False
    return good, [took, took_again]


def main():
    mib, rounds = map(int, sys.argv[1:])
    signal.alarm(patience())
    held = Held(1, mib * 1024 * 1024 // BYTES_EACH)
    times = []
    for _ in range(rounds):
        good, took = round_of_forks(held)
        times += took
        if not good:
            sys.exit(1)
    with open("/proc/self/status") as status:
        print("".join(line for line in status if line.startswith("VmHWM")), end="")
    print("fork us:", *(round(took) for took in times))


main()
