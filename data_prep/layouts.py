"""The dataset layouts that `data_prep.preprocess --dataset` reads, by name."""

from data_prep import cmlr, folder, hdtf, lrs2, lrs3, voxceleb2

LAYOUTS = {
    "folder": folder.sources,
    "lrs2": lrs2.sources,
    "lrs3": lrs3.sources,
    "voxceleb2": voxceleb2.sources,
    "cmlr": cmlr.sources,
    "hdtf": hdtf.sources,
}
