"""The one clock of frames, sound features and clip files."""

FPS = 25  # frames a second that the networks see; other videos are read at this rate
