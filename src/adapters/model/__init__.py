"""What users call on a model: thin methods over the registry of its adapters, one file for each group of them."""

from .classes import ModelAdaptersMixin as ModelAdaptersMixin
from .classes import adapted_class as adapted_class
from .classes import add_saved_adapters as add_saved_adapters
from .classes import detach as detach
from .classes import init as init
from .classes import load_model as load_model
from .classes import setup_registry as setup_registry
from .spellings import AdapterType as AdapterType
