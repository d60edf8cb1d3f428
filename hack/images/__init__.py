"""Container images made from what is on this machine: no registry, no Docker, no root.

`build(image, folder)` writes an OCI layout as one tar file, for `ctr images import`. What there is to build is listed
in `catalog`; Python images hold this machine's interpreter, its standard library and the locked requirements.
"""
