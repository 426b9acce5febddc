"""`python -m fastmnist` is the command `fastmnist`."""

from fastmnist.cli import main

main()
