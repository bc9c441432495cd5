"""doit commands. doit imports the one module of the command that is given; pyproject.toml names it."""

from recipes.standard_output import end_with_the_reader

# Here for doit's own help, which asks nothing else of ours: it imports every command before it prints.
end_with_the_reader()
