"""Turns models of other projects into ddimd's safetensors: `python -m ddimd.convert FROM TO`. Needs PyTorch.

What a file does not say (how many heads, which classes) is an argument with a default, and is said. What ddimd's network
cannot compute exactly is refused with a CannotConvert that names the tensors or the configuration's field at fault.
"""
from .network import CannotConvert

__all__ = ["CannotConvert"]
