"""The only code besides dodo.py that imports doit: tasks, commands, reporter, back-end.

A run with nothing to do takes a third of a second. The garbage collector took a third of that, during imports and at exit.
So it stays off until something is built (`tasks.guarded`), and at exit it skips the loaded modules.
"""

import atexit
import gc

gc.disable()
atexit.register(gc.freeze)
