"""``kubectl incident``: what a person on call does with incidents, by that person's own kubeconfig and rights.

It starts in a fraction of a second, so it imports neither Kopf nor the vendors' libraries, and its modules import
what is slow only where it is used.
"""
