"""The class that 1.3 had here, whose methods publish adapters."""

from .model.pushing import PushesAdapters

PushAdapterToHubMixin = PushesAdapters
