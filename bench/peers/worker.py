"""A provider in a process of its own: prints its version, then answers every line
`epochs seed` on standard input with the result of that training.
"""

import json
import sys

from jobs import JOBS
from providers import PROVIDERS, as_record

provider, job, threads = sys.argv[1:4]
peer = PROVIDERS[provider](JOBS[job], int(threads))
print(json.dumps({"version": peer.version}), flush=True)
for line in sys.stdin:
    print(json.dumps(as_record(peer.run(*map(int, line.split())))), flush=True)
