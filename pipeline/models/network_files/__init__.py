"""Networks that come whole from a file: TorchScript, ``torch.export``, ONNX, or a state dict with its Python code.

Owns: what such a file says of itself, and the check of its first tile. May import: models and networks.
Never touches: how the backend runs the network. ``fixed_batch`` imports torch, and is imported by name.
"""
