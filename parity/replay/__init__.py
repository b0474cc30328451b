"""Bundles: what a failure leaves behind, and running it again.

`bundle` and `sides` need no framework, so that the scripts of a bundle can run either side alone; `pack` and `again`
need both.
"""
