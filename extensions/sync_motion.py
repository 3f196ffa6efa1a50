"""Motion of the mouth as a further target of the lip-sync expert."""

from torch import Tensor, nn

from media.heatmap import LIP_POINTS
from models.layers import scaled
from models.sync_expert import FRAMES, SyncExpert

_STEP = 0.02  # the head's outputs count in these steps, about how far a mouth moves, in units of the crop


class ExpertAndMotion(nn.Module):
    """The expert and, in training, a linear head that reads off a face's and off a sound's embedding how the lips move.

    Through the one head both come to speak of the same thing; from similarities alone, a network that sees few people
    does not find out that it is the mouth that matters.
    """

    def __init__(self, expert: SyncExpert, reads_motion: bool):
        super().__init__()
        self.expert = expert
        width = scaled(512, expert.config.width)
        self.head = nn.Linear(width, FRAMES * len(LIP_POINTS) * 2) if reads_motion else None

    def forward(self, mel: Tensor, lower_faces: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Embed sounds (B, 1 + N, 1, 80, 16), their own first, and faces (B, 15, 48, 96).

        Returns:
            Their embeddings, (B, 1 + N, D) and (B, D); and where there is a head, what it reads off the faces and off
            their own sounds, (B, 5, 40, 2) each in units of the crop.
        """
        sounds, face = self.expert(mel.flatten(0, 1), lower_faces)
        sounds = sounds.unflatten(0, mel.shape[:2])
        read = [] if self.head is None else [self.head(x * x.shape[1] ** 0.5) for x in (face, sounds[:, 0])]
        return sounds, face, [_STEP * motion.unflatten(1, (FRAMES, len(LIP_POINTS), 2)) for motion in read]
