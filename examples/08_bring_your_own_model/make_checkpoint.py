"""Stands for your training: writes a checkpoint as that code does, random weights wrapped in "model"."""

import torch
from mynets import Net

torch.manual_seed(0)
net = Net(width=32)
for layer in net.modules():
    if isinstance(layer, torch.nn.BatchNorm2d):
        layer.running_mean.normal_(0, 0.1)
        layer.running_var.uniform_(0.5, 1.5)
torch.save({"model": net.state_dict(), "acc": 61.6, "epoch": 99}, "best_model_ckpt.t7")
