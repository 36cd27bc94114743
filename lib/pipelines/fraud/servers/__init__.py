"""One scoring task behind the servers one would choose from, each the way its own documentation shows.

Each module is a program, `python -m lib.pipelines.fraud.servers.with_X PORT FOREST_SO`, and runs in the environment that has its
packages; nothing imports them. All share `task.py`. One process that computes, one thread of inference, 127.0.0.1. Left out, for all
alike: log, windows, deadlines.
"""
