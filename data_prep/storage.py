"""The defaults by which a clip file stores a face. `data_prep.preprocess --help` prints them before libraries load."""

QUALITY = 90  # of the JPEGs
LONGEST_SIDE = 640  # px of a stored picture
