"""The `dist-ai` command. `main.py` finds the sub-commands: one file of this folder each."""
