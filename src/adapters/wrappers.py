"""`init` and `load_model`, where 1.3 had them."""

from .model import init as init
from .model import load_model as load_model
