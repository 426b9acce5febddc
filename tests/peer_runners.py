"""Providers that `test_bench_peers.py` compares: they sleep, lie, fail or are not there. A worker process imports this file."""

import os
import time
from typing import ClassVar

from runner import Runner


class Ours(Runner):
    """Says what it was told to say."""

    def __init__(self, parameters, settings):
        self.parameters, self.version, self.target = parameters, "fastmnist 0", None

    def prepare(self, theirs):
        self.target = theirs["loss"]

    def sample(self, seed):
        print("libraries print as they please")
        return {"seconds": 1.0 + seed / 100, "loss": self.target, "accuracy": 0.9, "note": f"seed {seed}"}


class Peer(Ours):
    """Twice as slow with its best setting."""

    CHOICES: ClassVar = {"threads": [1, 2]}

    @staticmethod
    def environment(settings):
        return {"PEER_THREADS": str(settings["threads"])}

    def __init__(self, parameters, settings):
        super().__init__(parameters, settings)
        self.version, self.threads = parameters["version"], settings["threads"]
        assert os.environ["PEER_THREADS"] == str(self.threads)

    def sample(self, seed):
        return {"seconds": 4.0 / self.threads + seed / 100, "loss": self.parameters["loss"], "accuracy": 0.9}


class Missing(Runner):
    """Not installed."""

    def __init__(self, parameters, settings):
        import no_such_library  # noqa: F401


class Failing(Peer):
    """Ends in the second round."""

    CHOICES: ClassVar = {"threads": [1]}

    def sample(self, seed):
        if seed:
            raise RuntimeError("out of luck")
        return super().sample(seed)


class Busy(Peer):
    """Counts while it is not asked anything."""

    CHOICES: ClassVar = {"threads": [1]}

    def __init__(self, parameters, settings):
        super().__init__(parameters, settings)
        import threading

        self.ticks = 0
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self):
        while True:
            self.ticks += 1
            time.sleep(0.001)

    def sample(self, seed):
        return {"seconds": float(self.ticks)}


class FromTree(Runner):
    """As fast as the tree that it imports from says."""

    def __init__(self, parameters, settings):
        from seconds_of_tree import SECONDS

        self.seconds, self.version = SECONDS, "1"

    def sample(self, seed):
        return {"seconds": self.seconds}
