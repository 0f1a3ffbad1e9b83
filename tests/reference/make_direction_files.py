"""Writes one direction in every format, type, byte order and shape in which other tools save them: tests/fixtures/directions/files.

Its values are multiples of 1/16, which every one of the types holds exactly; the tests compute them again.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

D_MODEL = 128  # the demo model's
FOLDER = Path(__file__).parent.parent / "fixtures" / "directions" / "files"


def values(number):
    """A direction by number."""
    return np.array([((7 * i + 3 * number) % 17 - 8) / 16 for i in range(D_MODEL)])


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.save(FOLDER / "truth_layer0.npy", values(0).astype("<f2"))
    np.save(FOLDER / "truth_layer1.npy", values(1).astype(">f2")[None, :])
    np.save(FOLDER / "truth_layer2.npy", values(2).astype(">f4")[:, None])
    np.save(FOLDER / "truth_layer3.npy", np.asfortranarray(values(3).astype(">f8")[:, None]))
    plane = np.stack([values(5), values(6), values(7)], axis=1)
    np.savez_compressed(FOLDER / "probes.npz", plane_layer1=plane.astype("<f4"), **{"lens-v2.1_layer02": values(8)})
    np.savez(FOLDER / "single.npz", single_layer4=values(9).astype("<f2"))
    save_file(
        {"honest_layer1": values(10).astype("<f2"), "honest_layer2": values(11)[None, :]},
        FOLDER / "honest.safetensors",
    )
    save_file({"direction": values(12).astype("<f4")}, FOLDER / "concept.safetensors")
    (FOLDER / "listed_layer3.json").write_text(json.dumps([values(13).tolist()]))
    (FOLDER / "das2d_theirs_ADJ_layer3.json").write_text(json.dumps(plane[:, :2].tolist()))


if __name__ == "__main__":
    main()
