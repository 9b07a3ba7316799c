"""Property tests draw the same examples every time, a busy machine is no failure, tiny tensors get one thread."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repository", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repository")
