"""The only code besides dodo.py that knows doit: tasks, commands, reporter, back-end."""
