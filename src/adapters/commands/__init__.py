"""The program `adapters`: one file for each command, and `app.py`, which names them all.

A command is a function with typer's annotations. It imports what it needs within the function, so that `adapters
--help` is there at once; what is wrong with its input it raises, and `app.run` says it in one line.
"""
