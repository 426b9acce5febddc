"""The bundled MNIST files, read by `fastmnist.load_mnist`: licence in `LICENSE`, checksums in `SHA256SUMS`."""
