"""The words of a directory of text, counted in parallel.

    python word_count.py [DIRECTORY]

One call counts each file; calls that take two results and return their sum fold the
counts together, pair by pair. Only references pass through this program: a count goes
from the worker that made it to the worker that adds it up, and one comes back.

Without a directory it writes a small library of made-up prose first, always the same.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yr

WORD = re.compile(r"[a-z']+")


@yr.invoke
def count(path: str) -> Counter[str]:
    return Counter(WORD.findall(Path(path).read_text(errors="replace").lower()))


@yr.invoke
def merge(a: Counter[str], b: Counter[str]) -> Counter[str]:
    return a + b


def count_all(paths: list[Path]) -> Counter[str]:
    counts = [count.invoke(str(path)) for path in paths]
    while len(counts) > 1:
        pairs = zip(counts[::2], counts[1::2])
        odd_one = counts[len(counts) & ~1 :]
        counts = [merge.invoke(a, b) for a, b in pairs] + odd_one
    return yr.get(counts[0])


def write_library(directory: Path, books: int = 24, words: int = 20_000) -> None:
    """Prose by Zipf's law: the n-th word is n times rarer than the first."""
    vocabulary = ["the", "of", "and", "river", "a", "stone", "in", "light", "was", "house", "rain", "old", "home"]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    for book in range(books):
        text = random.Random(book).choices(vocabulary, weights, k=words)
        (directory / f"book-{book:02}.txt").write_text(" ".join(text))


def report(directory: Path) -> None:
    paths = sorted(path for path in directory.rglob("*") if path.suffix in (".txt", ".md"))
    if not paths:
        sys.exit(f"no .txt or .md file under {directory}")
    yr.init()
    words = count_all(paths)
    yr.finalize()
    print(f"{len(paths)} files, {sum(words.values()):,} words, {len(words):,} different ones")
    for word, number in words.most_common(5):
        print(f"{number:>8,}  {word}")


def main() -> None:
    if len(sys.argv) > 1:
        report(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as directory:
        write_library(Path(directory))
        report(Path(directory))


if __name__ == "__main__":
    main()
