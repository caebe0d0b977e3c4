"""The program that `bootstrap` sends to a host: one Python process behind one ssh connection, run as root.

Its modules are sent as text and need nothing but Python's standard library, on any Python from 3.9 on: an older one
has to get far enough to say that it is too old. `bootstrap.program` packs them, `bootstrap.connection` speaks to them.

Frames both ways: four bytes of length (big endian), then JSON. The operator's side asks ({"do": name, …}); every
question gets any number of {"step": text} and then one {"done": …} or {"failed": {what, where, fix}}. The bytes of a
tarball follow their question without a frame.
"""
