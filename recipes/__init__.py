"""The only code besides dodo.py that knows doit: tasks, commands, reporter, back-end.

A run that finds nothing to do is over in a third of a second, and a third of that was the collector walking modules as they were
imported and again at the end. It rests until something is really built (`tasks.guarded`), and exits past what is loaded.
"""

import atexit
import gc

gc.disable()
atexit.register(gc.freeze)
