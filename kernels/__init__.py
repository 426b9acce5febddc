"""The arithmetic. A leaf: nothing here imports anything above it, decides, allocates or raises. See README.md in this folder."""
