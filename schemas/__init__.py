"""Contracts shared by the client and the cluster: what is written, under which name, in which shape.

No I/O and no Ray here. Everything that two processes (or two versions of one process) must agree
on is defined in this package and nowhere else.
"""

FORMAT_VERSION = 1
"""Version of the job directory. Readers refuse a newer one; every older one stays readable."""
