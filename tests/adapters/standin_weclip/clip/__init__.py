from clip.model import CLIP


def load(weights, device):
    # The "weights" are a seed.
    with open(weights) as file:
        return CLIP(int(file.read())).to(device)
