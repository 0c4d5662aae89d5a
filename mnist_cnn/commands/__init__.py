"""The commands of the command line, a file each: its options, what it checks, what it prints.

Each has add_options, which must need nothing that is slow to import, and run, which gives the exit
status. What several of them need stands in options.py and in shared.py.
"""
