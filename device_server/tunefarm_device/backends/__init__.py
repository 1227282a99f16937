"""One file for each kind of device; see `tunefarm_device.backend`."""
