"""Where the parts of a model are."""

from .inference import anatomy as anatomy
from .interface import AdapterModelInterface as AdapterModelInterface
from .interface import anatomy_from_interface as anatomy_from_interface
from .parts import Anatomy as Anatomy
from .parts import Layer as Layer
from .parts import Sublayer as Sublayer
from .parts import Tap as Tap
from .parts import Tower as Tower
