"""doit commands. doit imports the one module of the command that is given; pyproject.toml names it."""
