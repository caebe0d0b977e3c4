"""The soak: operators write through any host of a lab while hosts are cut off, lossy and without power; their history
must be linearizable. `make soak`."""
