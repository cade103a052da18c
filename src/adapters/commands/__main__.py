"""`python -m adapters.commands` is the program `adapters`."""

from .app import run

if __name__ == "__main__":
    run()
