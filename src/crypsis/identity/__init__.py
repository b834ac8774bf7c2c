"""Identity by content: what a result was made from, whatever its inputs are called and wherever they lie.

:mod:`~crypsis.identity.files` digests files, folders and hub ids, :mod:`~crypsis.identity.code` the modules that a
result depends on, and :mod:`~crypsis.identity.configs` finds both for any config.
"""
