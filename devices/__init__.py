"""Devices: what stands between peers and passes messages on. Installs as ``zmqkit.devices``.

The folder stands at the top of the repository, so a program started there could import it under its bare
name and get a second copy of every class; this file refuses that.
"""

if __name__ != "zmqkit.devices":
    raise ImportError(f"the package is called zmqkit.devices, not {__name__}: import zmqkit.devices instead")
