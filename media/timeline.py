"""The common frame rate of video frames, sound features and clip files."""

FPS = 25  # frames per second of the networks' input; videos of other rates are resampled to it
