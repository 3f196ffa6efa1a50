"""How clip files store a face, unless `data_prep.preprocess` is told otherwise. Imports nothing."""

QUALITY = 90  # of the JPEGs
LONGEST_SIDE = 640  # px of a stored picture
