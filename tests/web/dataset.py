"""A data set in MNIST's form, of bars whose place says the class."""
import struct

IMAGES = 160


def write_bars(folder):
    folder.mkdir(parents=True)
    pixels, labels = bytearray(), bytes(i % 10 for i in range(IMAGES))
    for i, label in enumerate(labels):
        for y in range(28):
            pixels += bytes(200 + (i * 7 + y) % 50 if 2 + 2 * label <= x < 6 + 2 * label and 4 <= y < 24 else 0 for x in range(28))
    (folder / "train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, IMAGES, 28, 28) + pixels)
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, IMAGES) + labels)
