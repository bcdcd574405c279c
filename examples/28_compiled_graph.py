"""A pipeline of three actors, compiled once and run many times.

Each stage is an actor with a state of its own. A compiled graph connects them by channels in
shared memory: `execute` writes one message, and no call is submitted any more. Several executions
are in flight at once, so that all stages work at the same time; a bad input is an error of its own
execution and of no other.
"""

import numpy as np

import shoal
from shoal.dag import InputNode, MultiOutputNode


@shoal.remote
class Cleaner:
    def clean(self, signal):
        if not np.isfinite(signal).all():
            raise ValueError("the signal has holes")
        return signal - signal.mean()


@shoal.remote
class Spectrum:
    def power(self, signal):
        return np.abs(np.fft.rfft(signal)) ** 2


@shoal.remote
class Judge:
    def __init__(self):
        self.seen = 0

    def loudest(self, power):
        self.seen += 1
        return int(power.argmax())

    def count(self):
        return self.seen


def wave(frequency, length=4096):
    return np.sin(2 * np.pi * frequency * np.arange(length) / length)


if __name__ == "__main__":
    shoal.init(num_cpus=3)
    cleaner, spectrum, judge = Cleaner.remote(), Spectrum.remote(), Judge.remote()
    with InputNode() as signal:
        power = spectrum.power.bind(cleaner.clean.bind(signal))
        graph = MultiOutputNode([judge.loudest.bind(power), power])

    with graph.compile(buffer_size_bytes=200_000) as compiled:
        print(compiled.visualize(format="ascii"))

        running = [compiled.execute(wave(frequency)) for frequency in range(1, 9)]
        print("loudest:", [shoal.get(loudest) for loudest, _ in running])

        holes = wave(5)
        holes[7] = np.nan
        loudest, _ = compiled.execute(holes)
        try:
            shoal.get(loudest)
        except ValueError as error:
            print("refused:", error)
        print("and goes on:", shoal.get(compiled.execute(wave(100))[0]))

        # Ordinary calls are served beside the loop, one at a time.
        print("judged:", shoal.get(judge.count.remote()))
