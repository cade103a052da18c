"""A demonstration on a real model and real text, without a network: `python -m adapters.demo`."""
