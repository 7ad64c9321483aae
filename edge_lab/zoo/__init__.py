"""Models: a few by name, any of torchvision and timm, and your own.

>>> from edge_lab import zoo
>>> zoo.list_models("efficient*")
['efficientnet_lite0']
>>> model = zoo.create("efficientnet_lite0")          # real ImageNet weights, offline
>>> mine = zoo.create("my_model.py:build", input_shape=(1, 3, 224, 224))   # doctest: +SKIP
"""

from edge_lab.zoo import digitnet, efficientnet, speechnet  # noqa: F401  (they register their models)
from edge_lab.zoo.model import Model, from_module
from edge_lab.zoo.registry import create, list_models, register
from edge_lab.zoo.small import save

__all__ = ["Model", "create", "from_module", "list_models", "register", "save"]
