"""What torch.onnx.export makes of the network by itself, once gradients are out of the way."""

import logging
import warnings

import torch
from mynets import Net

# torch's notes on a missing torchvision, and its own deprecations, are nobody's business here.
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
warnings.simplefilter("ignore")

net = Net(width=32).eval().requires_grad_(False)
net.load_state_dict(torch.load("best_model_ckpt.t7", weights_only=True)["model"])
with torch.no_grad():
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(net, (torch.zeros(2, 1, 8, 8),), "plain.onnx", dynamic_shapes=(batch,), verbose=False)
