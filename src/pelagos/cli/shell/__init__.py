"""The shell: a Python prompt whose names act on a running system.

* ``remote`` keeps the connection, in a thread and loop of its own;
* ``values`` are what the names answer: usable with and without ``await``;
* ``names`` is the namespace, ``classes`` the processes' own classes in it;
* ``execution`` runs lines with top-level ``await``; ``plain`` and ``ipython`` are the two prompts;
* ``history`` keeps what was typed, for its writer alone.

The ancestor's shell was a telnet port with a whole interpreter behind it, open to all (reference section 1.6). Here the
interpreter is the user's own process, and what it may do to a container is what the control socket offers.
"""
