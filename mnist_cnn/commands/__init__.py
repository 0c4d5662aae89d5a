"""The commands of the command line, a file each: its options, what it checks, what it prints.

Each has add_options, which must need nothing that is slow to import, and run, which returns the
exit status. What several of them need is in options.py and shared.py.
"""
