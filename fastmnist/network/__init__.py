"""Descriptions of networks: frozen values without arrays, and the programs compiled from them."""
