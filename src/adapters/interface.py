"""`AdapterModelInterface`, where 1.3 had it: the parts of a model by name."""

from .anatomy import AdapterModelInterface as AdapterModelInterface
from .checkpoints.files import INTERFACE_CONFIG as INTERFACE_CONFIG_NAME  # noqa: F401
from .configuration import AdapterMethod as AdapterMethod
