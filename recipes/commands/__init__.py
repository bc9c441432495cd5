"""doit commands. pyproject.toml names the module of each command; doit imports only the one that it needs."""

from recipes.standard_output import end_with_the_reader

# doit's own help imports every command before it prints, and calls nothing else of this package.
end_with_the_reader()
