"""Training over mmengine's Runner: config check, thin mmseg adapters, hooks and trained-head folders.

Importing this package is cheap; its modules import mmengine and mmseg.
"""
