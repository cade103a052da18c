"""Adapters in the layouts of other libraries: read as adapters of ours, and written for those who serve them."""
