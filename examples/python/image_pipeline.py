"""Images of 48 MB pass from function to function, and no byte of them is copied.

    python image_pipeline.py        # needs numpy

A large result stays where the worker wrote it: in shared memory. The next function maps
the same pages read-only, and its numpy array is a view of them. The program shows where
the pixels lie, that nobody may scribble on them, and how long it takes to receive them.
"""

from __future__ import annotations

import time

import numpy as np
import yr

HEIGHT, WIDTH = 4000, 4000


@yr.invoke
def photograph(seed: int) -> np.ndarray:
    """A gradient with noise, brighter with every seed: 4000 x 4000 pixels of 3 bytes."""
    noise = np.random.default_rng(seed).integers(0, 32, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    gradient = np.linspace(0, 64 * (seed + 1), WIDTH, dtype=np.uint8)[None, :, None]
    return noise + gradient


def mapping_of(image: np.ndarray) -> list[str]:
    """The mapping of this process in which the pixels lie: addresses, permissions, offset, device, inode, file."""
    address = image.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(edge, 16) for edge in line.split()[0].split("-"))
            if start <= address < end:
                return line.split()
    raise LookupError(f"nothing is mapped at {address:#x}")


@yr.invoke
def mapping_in_worker(image: np.ndarray) -> list[str]:
    return mapping_of(image)


@yr.invoke
def grey(image: np.ndarray) -> np.ndarray:
    """Luma of each pixel: 16 MB."""
    red, green, blue = (image[:, :, channel].astype(np.uint16) for channel in range(3))
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)


@yr.invoke
def histogram(image: np.ndarray) -> np.ndarray:
    return np.bincount(image.ravel(), minlength=256)


def main() -> None:
    yr.init()

    images = [photograph.invoke(seed) for seed in range(3)]
    histograms = [histogram.invoke(grey.invoke(image)) for image in images]
    yr.wait(histograms, wait_num=len(histograms))

    began = time.perf_counter()
    image = yr.get(images[0])
    received = time.perf_counter() - began
    began = time.perf_counter()
    image.copy()
    copied = time.perf_counter() - began
    here, there = mapping_of(image), yr.get(mapping_in_worker.invoke(images[0]))

    print(f"an image is {image.nbytes / 1e6:.0f} MB; it came here without a copy: {not image.flags.owndata}")
    print("receiving it took less time than copying it:", received < copied)
    print("a worker and this program map the same pages:", "memfd" in here[5] and here[4:] == there[4:])
    print("nobody can write to them here:", here[1] == "r--s" and not image.flags.writeable)
    for number, counts in enumerate(yr.get(histograms)):
        print(f"image {number}: {counts.sum():,} pixels, mean grey {np.average(range(256), weights=counts):.1f}")

    yr.finalize()


if __name__ == "__main__":
    main()
