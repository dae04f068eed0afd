"""The messaging patterns, one folder each: its pure core beside its faces.

Installs as ``zmqkit.patterns``. The folder stands at the top of the repository, so a program started there
could import it under its bare name and get a second copy of every class; this file refuses that.
"""

if __name__ != "zmqkit.patterns":
    raise ImportError(f"the package is called zmqkit.patterns, not {__name__}: import zmqkit.patterns instead")
